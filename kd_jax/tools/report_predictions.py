"""Pictures of what networks say of the test set: calibration, gains by class, how their logits correlate beside their
teacher's. Of every row the run with its first seed."""

from collections.abc import Sequence

import numpy as np

from kd_jax.storage.progress import log_line
from kd_jax.tools.report_plots import COLORS, MOST, axes_of, best_of, figure_of, png, style
from kd_jax.tools.report_tables import Row
from kd_jax.tools.report_targets import CAPTION, targets_picture
from kd_jax.train.predict import Predictions, predict
from kd_jax.typing import InputError

BINS = 15
CAPTIONS = {
    "reliability": "How often the networks are right by how sure they are (15 bins of the test set, first seed of "
    "each row); on the dashed line both are equal. ECE: expected calibration error, in points.",
    "classes": "Accuracy of every class of the test set, less that of the baseline; first seed of each row with the "
    "baseline's test set.",
    "correlation": "Absolute difference between the correlations of the student's and of the teacher's logits, by "
    "pairs of classes; first seed of each row. Darker is further from the teacher.",
}
TARGETS = "targets_"  # and a number: what the refiners of a row's phase make of its teacher's logits


def prediction_pictures(rows: Sequence[Row]) -> dict[str, bytes]:
    """Name -> PNG, as far as there is something to draw: see `caption`. Runs the saved networks.

    Raises:
      InputError: the data or a network is not there.
    """
    rows, said = best_of([row for row in rows if row.values]), {}
    for row in rows:
        run = next(run for run in row.runs if run.state == "done")
        if not run.summary["config"]["data"].get("labels", True):
            raise InputError(f"--predictions: {run.folder} is of data without labels")
        log_line(f"{row.label}: predictions of {run.folder}, {run.phase}")
        said[row.label] = predict(str(run.folder), phase=run.phase, seed=_together(run))
    base = next((row.label for row in rows if row.is_baseline), "")
    drawn = {"reliability": _reliability(said), "classes": _classes(said, base), "correlation": _correlation(said)}
    refined = [(label, of) for label, of in said.items() if of.targets is not None]
    for number, (label, of) in enumerate(refined, 1):
        drawn[f"{TARGETS}{number}"] = targets_picture(label, of.targets, of.classes)
    return {name: picture for name, picture in drawn.items() if picture}


def caption(name: str) -> str | None:
    """What a picture shows, None of one that is not of predictions."""
    return CAPTION if name.startswith(TARGETS) else CAPTIONS.get(name)


def _together(run) -> int | None:
    """The seed of a run that trained several."""
    return run.seed if "seeds" in run.figures else None


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, accuracy and share of the examples in every bin of equal width that has any.

    Args:
      logits: (N, K). labels: (N,).

    Reference: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599.
    """
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    confidence = (shifted / shifted.sum(-1, keepdims=True)).max(-1)
    right = logits.argmax(-1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(places, minlength=bins)
    there = count > 0
    means = (
        np.bincount(places, weights=values, minlength=bins)[there] / count[there] for values in (confidence, right)
    )
    return *means, count[there] / len(labels)


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error, in [0, 1]: the mean distance of confidence and accuracy over the examples."""
    confidence, accuracy, share = calibration(logits, labels, bins)
    return float(share @ np.abs(confidence - accuracy))


def _reliability(said: dict[str, Predictions]) -> bytes:
    figure, axes = axes_of("Calibration", "confidence, %", "accuracy, %")
    axes.plot([0, 100], [0, 100], color="#999999", linestyle="--", linewidth=1)
    for i, (label, of) in enumerate(said.items()):
        confidence, accuracy, _ = calibration(of.logits, of.labels)
        error = 100 * calibration_error(of.logits, of.labels)
        axes.plot(100 * confidence, 100 * accuracy, label=f"{label}: ECE {error:.1f}", **style(i))
    axes.legend(fontsize="small")
    return png(figure)


def by_class(of: Predictions) -> np.ndarray:
    """(K,) accuracy of every class; NaN of one without test images."""
    right, size = of.logits.argmax(-1) == of.labels, of.logits.shape[-1]
    with np.errstate(invalid="ignore"):
        return np.bincount(of.labels, weights=right, minlength=size) / np.bincount(of.labels, minlength=size)


def _classes(said: dict[str, Predictions], base: str) -> bytes | None:
    """Of the rows with the baseline's test set."""
    said = {label: of for label, of in said.items() if base in said and _same_images(of, said[base])}
    if len(said) < 2:
        return None
    names = said[base].classes or tuple(map(str, range(said[base].logits.shape[-1])))
    few = len(names) <= 20
    figure, axes = axes_of(
        f"Against {base}", "" if few else "classes, from the largest loss to the largest gain", "points"
    )
    axes.axhline(0, color="#999999", linewidth=1)
    for i, (label, of) in enumerate(each for each in said.items() if each[0] != base):
        gains = 100 * (by_class(of) - by_class(said[base]))
        shift = (i - len(said) / 2) * 0.08 if few else 0
        look = {**style(i), "linestyle": ""} if few else {"color": COLORS[i % MOST]}
        axes.plot(np.arange(len(names)) + shift, gains if few else np.sort(gains), label=label, **look)
    if few:
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.legend(fontsize="small")
    return png(figure)


def _same_images(one: Predictions, other: Predictions) -> bool:
    """Whether two networks are of one test set, as far as labels and classes tell."""
    return one.logits.shape == other.logits.shape and np.array_equal(one.labels, other.labels)


def correlation_difference(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """(K, K) absolute differences of the correlations between classes of two sets of logits (N, K)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        pair = [np.nan_to_num(np.corrcoef(logits, rowvar=False)) for logits in (student, teacher)]
    return np.abs(pair[0] - pair[1])


def _correlation(said: dict[str, Predictions]) -> bytes | None:
    maps = {name: correlation_difference(of.logits, of.teacher) for name, of in said.items() if of.teacher is not None}
    if not maps:
        return None
    columns = min(len(maps), 3)
    lines = -(-len(maps) // columns)
    figure = figure_of((3.2 * columns + 0.8, 3.7 * lines))
    places = np.ravel(figure.subplots(lines, columns, squeeze=False))
    top = max(each.max() for each in maps.values())
    for axes, (label, each) in zip(places, maps.items(), strict=False):
        image = axes.imshow(each, cmap="cividis_r", vmin=0, vmax=max(top, 1e-6))
        axes.set_title(f"{label}\nmean {each.mean():.3f}", fontsize="small")
        axes.set(xlabel="class", ylabel="class")
    for axes in places[len(maps) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=places.tolist(), label="difference of correlations")
    return png(figure)
