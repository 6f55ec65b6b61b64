"""The picture of refined distributions: which images, which classes, and that the bars have the values."""

import numpy as np
import pytest

from kd_jax.tools import report_plots, report_targets
from kd_jax.tools.report_targets import BARS, bars, chosen, targets_picture
from kd_jax.train.targets import Targets


def targets_of(teacher, label, **parts):
    """The other distributions are rolled ones of the teacher, to be told apart."""
    n = len(label)
    others = {name: np.roll(teacher, k, -1) for k, name in enumerate(("softened", "target", "student"), 1)}
    fields = {"image": np.full((n, 4, 4, 3), 0.5), "label": np.array(label), "teacher": teacher, **others, **parts}
    return Targets(**fields, temperatures=np.tile([4.0, 1.0], (n, 1)))


def distributions(rng, n, size):
    return rng.dirichlet(np.ones(size), n).astype(np.float32)


def test_the_least_certain_image_of_each_class():
    teacher = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.4, 0.3, 0.3], [0.9, 0.1, 0], [0.5, 0.5, 0]])
    assert chosen(targets_of(teacher, [0, 0, 1, 2, 0])) == [2, 1, 3]  # 1 and 4 are equal: the first
    assert chosen(targets_of(teacher, [0, 0, 1, 2, 0]), 2) == [2, 1]


def test_few_classes_in_their_order_many_by_their_target(rng):
    few = targets_of(distributions(rng, 3, 10), [0, 1, 2])
    classes, values = bars(few, 1)
    assert classes.tolist() == list(range(10))
    np.testing.assert_array_equal(values, [few.teacher[1], few.softened[1], few.target[1], few.student[1]])
    many = targets_of(distributions(rng, 3, 100), [0, 1, 2])
    classes, values = bars(many, 2)
    assert classes.tolist() == sorted(range(100), key=lambda k: -many.target[2, k])[:8]
    np.testing.assert_array_equal(values[3], many.student[2, classes])


@pytest.mark.parametrize("size", [10, 100])
def test_the_bars_have_the_values(rng, monkeypatch, size):
    figures = []
    monkeypatch.setattr(report_targets, "png", lambda figure: figures.append(figure) or report_plots.png(figure))
    names = tuple(f"class {k}" for k in range(size))
    targets = targets_of(distributions(rng, 7, size), [0, 1, 2, 3, 4, 5, 5])
    assert targets_picture("SKD", targets, names)[:4] == b"\x89PNG"
    (figure,), places = figures, chosen(targets)
    lefts, rights = figure.axes[::2], figure.axes[1::2]
    labels = [f"label:\nclass {targets.label[i]}" for i in places]
    assert len(rights) == 5 and [axes.get_title() for axes in lefts] == labels
    for axes, i in zip(rights, places, strict=True):
        classes, values = bars(targets, i)
        heights = [bar.get_height() for bar in axes.patches]
        np.testing.assert_allclose(heights, 100 * values.ravel(), rtol=1e-6)
        assert axes.get_title() == "teacher at T = 4, student at T = 1"
    assert [text.get_text() for text in rights[-1].get_xticklabels()] == [names[k] for k in classes]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [label for label, _ in BARS]
