"""What networks say of the test set: figures against slow loops, and against what the run itself has measured."""

import json

import numpy as np
import pytest

from kd_jax.tools import report, report_predictions
from kd_jax.tools.report_predictions import by_class, calibration, calibration_error, correlation_difference
from kd_jax.train import run
from kd_jax.train.predict import Predictions, predict
from tests.conftest import tree


def test_calibration_against_a_slow_loop(rng):
    logits, labels = 3 * rng.normal(size=(500, 4)), rng.integers(0, 4, 500)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    total = 0.0
    for b in range(15):
        inside = [i for i in range(500) if b / 15 <= p[i].max() < (b + 1) / 15 or (b == 14 and p[i].max() == 1)]
        if inside:
            right = np.mean([p[i].argmax() == labels[i] for i in inside])
            total += len(inside) / 500 * abs(np.mean([p[i].max() for i in inside]) - right)
    assert calibration_error(logits, labels) == pytest.approx(total)
    assert calibration(logits, labels)[2].sum() == pytest.approx(1)
    sure = np.full((8, 4), -1e4)
    sure[:, 1] = 1e4
    assert calibration_error(sure, np.ones(8, int)) == 0 and calibration_error(sure, np.zeros(8, int)) == 1


def test_accuracy_by_class():
    logits = np.eye(3)[[0, 0, 1, 2]]
    said = Predictions(logits, None, np.array([0, 1, 1, 0]), ())
    np.testing.assert_array_equal(by_class(said), [0.5, 0.5, np.nan])


def test_gains_are_among_rows_of_one_test_set(rng):
    """A report may hold runs on several data sets."""
    one, two = (Predictions(rng.normal(size=(8, 3)), None, np.arange(8) % 3, ()) for _ in range(2))
    other = Predictions(rng.normal(size=(8, 5)), None, np.arange(8) % 5, ())
    shuffled = two._replace(labels=two.labels[::-1])
    assert report_predictions._classes({"a": one, "b": other, "c": shuffled}, "a") is None
    drawn = report_predictions._classes({"a": one, "b": other, "c": two}, "a")
    assert drawn == report_predictions._classes({"a": one, "c": two}, "a") and drawn[:4] == b"\x89PNG"
    assert report_predictions._classes({"a": one, "c": two}, "") is None  # the baseline has no result


def test_correlations(rng):
    teacher = rng.normal(size=(50, 3))
    np.testing.assert_allclose(correlation_difference(5 * teacher + 1, teacher), 0, atol=1e-12)
    student = rng.normal(size=(50, 3))
    expected = abs(np.corrcoef(student[:, 0], student[:, 2])[0, 1] - np.corrcoef(teacher[:, 0], teacher[:, 2])[0, 1])
    assert correlation_difference(student, teacher)[0, 2] == pytest.approx(expected)
    student[:, 1] = 0  # a class that always gets the same logit correlates with none
    assert np.isfinite(correlation_difference(student, teacher)).all()


@pytest.mark.usefixtures("tiny_resnet8", "shared_programs")
def test_they_are_what_the_run_has_measured(tmp_path, capsys):
    summary = run.run(json.loads(json.dumps(tree())), str(tmp_path / "run"))["phases"]["student"]
    said = predict(str(tmp_path / "run"), phase="student")
    assert said.logits.shape == (13, 5) == said.teacher.shape
    assert np.mean(said.logits.argmax(-1) == said.labels) == pytest.approx(summary["top1_last"])
    assert np.mean(said.logits.argmax(-1) == said.teacher.argmax(-1)) == pytest.approx(summary["agreement_last"])
    alone = predict(str(tmp_path / "run"), phase="teacher")
    assert alone.teacher is None
    np.testing.assert_allclose(alone.logits, said.teacher, atol=1e-6)
    written = report.report([str(tmp_path / "run")], out=str(tmp_path / "out"), predictions=True)
    names = {path.name for path in written}
    assert {"report_reliability.png", "report_correlation.png"} <= names and "report_classes.png" not in names
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(
        caption.split(";")[0][:40] in page for name, caption in report_predictions.CAPTIONS.items() if name != "classes"
    )
