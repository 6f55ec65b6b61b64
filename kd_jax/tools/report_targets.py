"""A picture of what refiners make of a teacher's logits: test images beside the distributions that are compared."""

import textwrap

import numpy as np

from kd_jax.tools.report_plots import COLORS, figure_of, png
from kd_jax.train.targets import Targets

COUNT = 5  # images of a picture
SHOWN = 8  # classes of an image, where there are more than ALL
ALL = 10
LONGEST = 14  # letters of a class's name
CAPTION = (
    "What the refiners of a phase make of its teacher's logits after the last step, and the student beside it; the "
    f"{COUNT} images of the first test batch on which the teacher is least certain (highest entropy at temperature 1), "
    "one a class; first seed of the row. A refiner that attends over the batch sees this one, of the size of training."
)
BARS = (
    ("teacher, T = 1", {"color": "white", "edgecolor": "black"}),
    ("softened", {"color": COLORS[5]}),
    ("target: softened and refined", {"color": COLORS[0]}),
    ("student", {"color": COLORS[1], "edgecolor": "white", "hatch": "////"}),
)


def chosen(targets: Targets, count: int = COUNT) -> list[int]:
    """The images on which the teacher is least certain: of each class the one with the highest entropy, the first of
    equal ones, and of these the `count` highest, in that order."""
    p = np.maximum(targets.teacher.astype(np.float64), np.finfo(np.float32).tiny)
    entropy, places = -(p * np.log(p)).sum(-1), {}
    for i in np.argsort(-entropy, kind="stable").tolist():
        places.setdefault(int(targets.label[i]), i)
    return list(places.values())[:count]


def bars(targets: Targets, i: int) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn of an image: the classes, and (4, classes) their probabilities in the order of BARS. All classes in
    their order where there are few, else those with the highest target, from the highest on."""
    values = np.stack([part[i] for part in (targets.teacher, targets.softened, targets.target, targets.student)])
    size = values.shape[-1]
    classes = np.arange(size) if size <= ALL else np.argsort(-targets.target[i], kind="stable")[:SHOWN]
    return classes, values[:, classes]


def targets_picture(title: str, targets: Targets, classes: tuple[str, ...]) -> bytes:
    """The picture. classes: names, () where they have none."""
    names = classes or tuple(map(str, range(targets.target.shape[-1])))
    names = tuple(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names)
    places = chosen(targets)
    few = len(names) <= ALL
    figure = figure_of((4.4, (1.35 if few else 1.75) * len(places) + 1.3))
    grid = figure.subplots(len(places), 2, squeeze=False, width_ratios=(1, 3.4))
    for (left, right), i in zip(grid, places, strict=True):
        _draw_image(left, targets, i, names)
        _draw_bars(right, targets, i, names)
    if few:
        for axes in grid[:-1, 1]:
            axes.set_xticklabels([])
    handles, labels = grid[0, 1].get_legend_handles_labels()
    figure.suptitle(textwrap.fill(title, 55), fontsize=10)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return png(figure)


def _draw_image(axes, targets: Targets, i: int, names: tuple[str, ...]) -> None:
    image = targets.image[i]
    axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(f"label:\n{names[targets.label[i]]}", fontsize=8)


def _draw_bars(axes, targets: Targets, i: int, names: tuple[str, ...]) -> None:
    classes, values = bars(targets, i)
    teacher, student = targets.temperatures[i]
    for j, ((label, look), heights) in enumerate(zip(BARS, 100 * values, strict=True)):
        axes.bar(np.arange(len(classes)) + 0.2 * (j - 1.5), heights, 0.2, label=label, linewidth=0.4, **look)
    axes.set_xticks(range(len(classes)), [names[k] for k in classes], rotation=40, ha="right", fontsize=8)
    axes.set_title(f"teacher at T = {teacher:.3g}, student at T = {student:.3g}", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("%", fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
