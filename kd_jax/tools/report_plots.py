"""Pictures of results: curves with bands over seeds, results against a numeric key, results against cost. PNG, legible
in print and on a screen: labels, units, colours that colour-blind readers tell apart, a marker for each line."""

import io
import itertools
import re
import statistics
import textwrap
from collections.abc import Sequence

import numpy as np

from kd_jax.tools.report_tables import Gap, Row

# Okabe and Ito's palette
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vP*X"
MOST = len(COLORS)  # lines of one picture
USES = "/use/"  # in the names of what a policy logs
SIZE = (6.4, 4.2)  # inches
LETTERS = 34  # of a line of a name beside a picture
FAR = 10  # times the median difference


def pictures(rows: Sequence[Row], metric: str) -> dict[str, bytes]:
    """Name -> PNG of all that there is something to draw for.

    Args:
      rows: with results or without.
      metric: the headline, as rows of metrics.jsonl name it.
    """
    rows = [row for row in rows if row.values]
    drawn = {
        "differences": _differences(rows),
        "curves": _curves(rows, metric),
        "cost": _cost(rows, metric),
        "policy": _policy(rows),
        "areas": _areas(rows),
    }
    for key in _numeric_keys(rows):
        drawn[f"against_{key}"] = _against(rows, key, metric)
    return {name: picture for name, picture in drawn.items() if picture}


def figure_of(size: tuple[float, float]):
    """An empty figure. size: in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axes_of(title: str, x: str, y: str):
    """A figure, and its axes with a title and the names of what they show."""
    figure = figure_of(SIZE)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def png(figure) -> bytes:
    """A figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def style(i: int) -> dict:
    """How the i-th line looks."""
    return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}


def _legend(axes, shown: int, there: int) -> None:
    title = f"the best {shown} of {there}" if there > shown else None
    axes.legend(fontsize="small", title=title, title_fontsize="small")


def best_of(rows: Sequence[Row]) -> list[Row]:
    """As many as a picture has colours for, in the order of the table."""
    chosen = sorted(rows, key=lambda row: -row.mean)[:MOST]
    return [row for row in rows if row in chosen]


def _differences(rows: Sequence[Row]) -> bytes | None:
    """Every row's difference to the baseline."""
    rows = [row for row in rows if row.gap]
    return png(figure_of_differences(rows)) if rows else None


def _in_lines(label: str) -> str:
    """A row's name, broken after spaces and commas, so that it leaves room for what it is the name of."""
    return textwrap.fill(re.sub(r",(?=\S)", ", ", label), LETTERS)


def figure_of_differences(rows: Sequence[Row]):
    """A line for every row, in the order of the table: a dot for each pair, the mean and the interval that the pairs
    leave. Means that the interval tells from zero are filled; a row far outside the others is a number at the edge.
    rows: with differences, one at least."""
    labels = [_in_lines(row.label) for row in rows]
    spacing = 0.1 + 0.16 * max(label.count("\n") + 1 for label in labels)
    figure = figure_of((SIZE[0], 1.2 + spacing * len(rows)))
    axes = figure.add_subplot()
    widths = [max(map(abs, row.gap.pairs)) for row in rows]
    for place, (row, width) in enumerate(zip(rows, widths, strict=True)):
        if width > FAR * statistics.median(widths):
            left, text = row.gap.mean < 0, f"{100 * row.gap.mean:+.1f}"
            axes.text(
                0.01 if left else 0.99, place, f"\u2190 {text}" if left else f"{text} \u2192", color=COLORS[0],
                transform=axes.get_yaxis_transform(), horizontalalignment="left" if left else "right",
                verticalalignment="center", size="small",
            )  # fmt: skip
        else:
            _difference(axes, place, row.gap)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set(title=f"To {rows[0].gap.baseline}", xlabel="difference of the last step, points")
    return figure


def _difference(axes, place: int, gap: Gap) -> None:
    told_apart = gap.reach is not None and abs(gap.mean) > gap.reach
    pairs = [100 * pair for pair in gap.pairs]
    axes.plot(pairs, [place] * len(pairs), ".", color=COLORS[1], markersize=5, zorder=3)
    axes.errorbar(
        100 * gap.mean, place, xerr=None if gap.reach is None else 100 * gap.reach, fmt="o", color=COLORS[0],
        markerfacecolor=COLORS[0] if told_apart else "white", capsize=3, elinewidth=1, markersize=7,
    )  # fmt: skip


def _curves(rows: Sequence[Row], metric: str) -> bytes | None:
    """The headline on the test set by epoch: mean over seeds, a band of one deviation."""
    figure, axes = axes_of("Test set", "epoch", f"{metric}, %")
    for i, row in enumerate(best_of(rows)):
        points: dict[float, list[float]] = {}
        for test in itertools.chain(*(run.rows for run in row.runs)):
            if test["split"] == "test":
                points.setdefault(test["epoch"], []).append(100 * test[metric])
        epochs = sorted(points)
        means = np.array([statistics.fmean(points[epoch]) for epoch in epochs])
        axes.plot(epochs, means, label=row.label, **style(i))
        if len(row.values) > 1:
            band = np.array([statistics.pstdev(points[epoch]) for epoch in epochs])
            axes.fill_between(epochs, means - band, means + band, color=COLORS[i % MOST], alpha=0.15, linewidth=0)
    if not axes.lines:
        return None
    _legend(axes, len(axes.lines), len(rows))
    return png(figure)


def _cost(rows: Sequence[Row], metric: str) -> bytes | None:
    """The headline against what a step takes."""
    rows = [row for row in rows if row.milliseconds]
    if len(rows) < 2:
        return None
    figure, axes = axes_of("Accuracy and cost", "ms a step, median of the runs", f"{metric} of the last step, %")
    for i, row in enumerate(best_of(rows)):
        error = None if row.deviation is None else 100 * row.deviation
        axes.errorbar(
            row.milliseconds, 100 * row.mean, yerr=error, capsize=3, linestyle="", label=row.label, **style(i)
        )
    _legend(axes, min(len(rows), MOST), len(rows))
    return png(figure)


def _policy(rows: Sequence[Row]) -> bytes | None:
    """What a policy uses, by epoch, of the first run that has searched one."""
    for run in itertools.chain(*(row.runs for row in rows)):
        logs = [(row["epoch"], row["logs"]) for row in run.rows if row["split"] == "train" and row.get("logs")]
        names = [name for name in (logs[0][1] if logs else ()) if USES in name]
        if names and len(logs) > 1:
            break
    else:
        return None
    figure, axes = axes_of(f"Policy of {run.name}, seed {run.seed}", "epoch", "probability of use, %")
    for i, name in enumerate(names):
        look = {"color": COLORS[i % MOST], "linestyle": "-" if i < MOST else "--"}
        axes.plot(
            [epoch for epoch, _ in logs], [100 * each[name] for _, each in logs], label=name.split(USES)[1], **look
        )
    axes.legend(fontsize="small", ncols=2)
    return png(figure)


def _areas(rows: Sequence[Row]) -> bytes | None:
    """The maps that a method has drawn over test images, of the first run that has any."""
    for run in itertools.chain(*(row.runs for row in rows)):
        drawn = run.folder / run.phase / "maps.png"
        if drawn.exists():
            return drawn.read_bytes()
    return None


def _numeric_keys(rows: Sequence[Row]) -> list[str]:
    """Keys that have two numbers at least."""
    keys = dict.fromkeys(key for row in rows for key in row.runs[0].settings)
    return [key for key in keys if len({v for row in rows if (v := _number(row, key)) is not None}) > 1]


def _number(row: Row, key: str) -> float | None:
    try:
        return float(row.runs[0].settings.get(key, ""))
    except ValueError:
        return None


def _against(rows: Sequence[Row], key: str, metric: str) -> bytes:
    """The headline against a numeric key, a line for every combination of the others."""
    lines: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        value = _number(row, key)
        if value is not None:
            others = ", ".join(f"{k.split('.')[-1]}={v}" for k, v in row.runs[0].settings.items() if k != key)
            lines.setdefault(others, []).append((value, row))
    figure, axes = axes_of(key, key, f"{metric} of the last step, %")
    for i, (label, points) in enumerate(list(lines.items())[:MOST]):
        points.sort(key=lambda point: point[0])
        means = [100 * row.mean for _, row in points]
        errors = [100 * (row.deviation or 0) for _, row in points]
        axes.errorbar([x for x, _ in points], means, yerr=errors, capsize=3, label=label or None, **style(i))
    without = [row for row in rows if key not in row.runs[0].settings][: MOST - len(lines)]
    for i, row in enumerate(without, len(lines)):  # such as the baseline
        axes.axhline(100 * row.mean, color=COLORS[i % MOST], linestyle="--", linewidth=1, label=row.label)
    values = sorted({x for points in lines.values() for x, _ in points})
    if values[0] > 0 and values[-1] / values[0] >= 20:
        axes.set_xscale("log")
    if any(lines) or without:
        _legend(axes, min(len(lines), MOST), len(lines))
    return png(figure)
