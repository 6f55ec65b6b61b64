"""Whole runs on images without labels: what a teacher says is all that there is to learn."""

import json

import jax
import numpy as np
import pytest

from configs import unlabelled as unlabelled_config
from kd_jax import InputError, models
from kd_jax.distributed.mesh import Layout
from kd_jax.train import run
from kd_jax.train.batches import batches_of
from kd_jax.train.evaluate import evaluate, line, saved
from tests.commands import launch
from tests.conftest import tree
from tests.data.test_folder import fill
from tests.train.resuming import last_state, rows

pytestmark = pytest.mark.usefixtures("tiny_resnet8")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A teacher, and a student of it by what reads no labels."""
    home = tmp_path_factory.mktemp("labelled")
    return home, run.run(student(), str(home))


def student(**changes):
    """A student by KD and SKD's refiner alone, behind a teacher."""
    changes = {"teacher__steps": 20, "student__steps": 6, "student__terms__ce__weight": 0.0, "seed": 3} | changes
    return json.loads(json.dumps(tree(**changes, data__augment="crop")))


def alone(home, **changes):
    """The same student on images without labels; its teacher is there already."""
    changes = {
        "phases": ("student",),
        "student__teacher": f"checkpoint:{home}/teacher",
        "data__labels": False,
    } | changes
    return student(**changes)


@pytest.fixture(scope="module")
def unlabelled(labelled, tmp_path_factory):
    home = tmp_path_factory.mktemp("unlabelled")
    return home, run.run(alone(labelled[0]), str(home))


def test_a_student_without_labels_is_the_student_that_does_not_read_them(labelled, unlabelled):
    (a, with_labels), (b, without) = labelled, unlabelled
    ours, theirs = last_state(a, "student"), last_state(b, "student")
    lost = ours.keys() - theirs.keys()  # the one log that labels alone can tell
    assert not theirs.keys() - ours.keys() and lost and all("top1" in key for key in lost)
    assert any("skd" in key for key in theirs)
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    assert without["phases"]["student"]["agreement_last"] == with_labels["phases"]["student"]["agreement_last"]


def test_agreement_is_the_headline(unlabelled):
    home, summary = unlabelled
    phase = summary["phases"]["student"]
    assert 0 < phase["agreement_last"] <= phase["agreement_best"] and "top1_last" not in phase
    assert phase["teacher"].keys() == {"origin", "digest", "agreement"} and phase["teacher"]["agreement"] is None
    train, test = rows(home)[0], rows(home)[-1]
    assert "top1" not in train and test["loss"] > 0 and test["agreement"] == phase["agreement_last"]
    report = (home / "report.md").read_text()
    assert "| phase | model | agreement | best (chosen on test) | parameters | ms/step |" in report
    assert "without labels" in report and f"| {phase['agreement_last']:.2%} |" in report


def test_evaluate_reads_the_teacher_again(unlabelled):
    home, summary = unlabelled
    row = rows(home)[-1]
    assert evaluate(str(home)) == {
        "phase": "student", "model": "resnet8", "step": 6, "loss": row["loss"], "agreement": row["agreement"],
    }  # fmt: skip


def test_the_command(unlabelled):
    home, summary = unlabelled
    agreement = summary["phases"]["student"]["agreement_last"]
    assert line(evaluate(str(home))).startswith(
        f"student (resnet8, step 6): agreement with its teacher {agreement:.2%}  "
    )
    done = launch("evaluate", f"--workdir={home}", "--expect_top1=0.1")
    assert done.returncode == 2 and "--expect_top1: " in done.stderr and "without labels" in done.stderr


def test_labels_in_memory_are_not_in_the_batch(labelled, monkeypatch):
    """Nor in the arrays on the devices, and a stream does not read them."""
    for stream in (False, True):
        prepared = run.prepare(alone(labelled[0], data__stream=stream), str(labelled[0] / "never"))
        assert prepared.dataset.train.labels is None and prepared.dataset.classes == ()
        with batches_of(prepared.recipe, Layout((1,)), prepared.dataset) as source:
            test = next(iter(source.test(8)))
            assert source.train(0, 8).keys() == test.keys() == {"image", "index", "mask"}


@pytest.mark.parametrize(("changes", "message"), [
    ({"student__terms__ce__weight": 0.1}, r"config.student.terms.ce: reads labels, but config.data.labels is False; "),
    ({"phases": ("teacher", "student"), "student__teacher": "phase:teacher"}, "config.teacher.terms.ce: reads labels"),
    ({"data__classes": 7}, "config.student.teacher: checkpoint:.*: its classes is 5, the data's is 7"),
    ({"data__labels": True, "data__classes": 5}, "config.data.classes: must be 0 where data.labels is True, got 5"),
    ({"data__classes": -1}, "config.data.classes: must be a number of classes, or 0 for the data set's, got -1"),
])  # fmt: skip
def test_what_is_refused(labelled, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run.prepare(alone(labelled[0], **changes), str(tmp_path))


def test_a_loaded_network_teaches_and_mixed_images_need_no_labels(labelled, tmp_path):
    """Two phases, the first of which is read from a file; nothing measures it, since nobody says what is right."""
    network, variables, _ = saved(str(labelled[0]), phase="teacher")
    models.save_torch(str(tmp_path / "teacher.pth"), network.model, variables)
    changes = {"phases": ("teacher", "student"), "teacher__weights": str(tmp_path / "teacher.pth")}
    changes |= {"student__teacher": "phase:teacher", "data__mix__mixup": 0.8, "seeds": 2, "checkpoint__best": 1}
    summary = run.run(alone(labelled[0], **changes), str(tmp_path / "run"))
    phases = summary["phases"]
    assert phases["teacher"]["agreement_last"] is None and 0 <= phases["student"]["agreement_last"] <= 1
    assert phases["student"]["agreement_std"] >= 0 and len(phases["student"]["seeds"]) == 2
    assert "loss" not in evaluate(str(tmp_path / "run"), phase="teacher")
    assert "| teacher | resnet8 | - | - | " in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.full
def test_efficientnet_lite0_teaches_a_folder_of_images(tmp_path, rng):
    """As its published weights would, from a file of PyTorch with random ones."""
    fill(tmp_path / "images", rng, {"holiday": 12, "work/old": 8}, height=32, width=32)
    model = models.create("EfficientNetLite0", 11)
    variables = models.init(model, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    models.save_torch(str(tmp_path / "lite0.pth"), model, variables)
    config_dict = unlabelled_config.get_config("resnet8,smoke")
    config_dict.data.name, config_dict.data.classes = f"folder:{tmp_path}/images", 11
    config_dict.student.teacher, config_dict.student.ema = f"weights:{tmp_path}/lite0.pth", None
    summary = run.run(json.loads(json.dumps(config_dict.to_dict())), str(tmp_path / "run"))
    assert 0 <= summary["phases"]["student"]["agreement_last"] <= 1 and summary["phases"]["student"]["steps"] == 2
    (teacher,) = run.prepare(config_dict.to_dict(), str(tmp_path / "run")).plans[0].teachers
    assert teacher.network.mean == (127 / 255,) * 3 and teacher.network.num_classes == 11
