"""Teachers that are no networks of ours, in whole runs: a function, and a table of logits."""

import re
import sys

import numpy as np
import pytest

from kd_jax import InputError, data, recipes
from kd_jax.interop import python_function
from kd_jax.train import run
from kd_jax.train.dry_run import dry_run
from tests.conftest import tree
from tests.test_readme import OWN
from tests.train.resuming import last_state, rows

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

SYNTHETIC = data.load("synthetic", synthetic=tree()["data"]["synthetic"])
LONG = {"teacher__steps": 7, "student__steps": 6, "log__every": 1, "data__augment": "none"}
WRAPPED = """
import jax
from kd_jax import Variables, models
from kd_jax.models.network import normalize
from kd_jax.train.evaluate import saved

def teacher(num_classes, image_shape):
    network, variables, _ = saved({home!r}, phase="teacher")

    def run(variables, images):
        outputs, _ = models.apply(network.model, Variables(*variables), normalize(images, network.mean, network.std))
        return {returned}

    run.params = tuple(variables)
    return run

def closed(num_classes, image_shape):
    run = teacher(num_classes, image_shape)
    return lambda images: run(run.params, images)

def rejected(num_classes, image_shape):
    return lambda images: images.mean((1, 2)) @ jax.numpy.zeros((3, num_classes))
"""


def alone(origin, **changes):
    """A student whose teacher comes from elsewhere."""
    return tree(**LONG, phases=("student",), student__teacher=origin, **changes)


def write(folder, home, returned="outputs"):
    (folder / "wrapped.py").write_text(WRAPPED.format(home=str(home), returned=returned))
    sys.modules.pop("wrapped", None)


def student(folder):
    """What the student and its rows are after a run."""
    return last_state(folder, "student"), [row for row in rows(folder) if row["phase"] == "student"]


def assert_same(one, other, atol=0.0):
    (a, ours), (b, theirs) = student(one), student(other)
    assert a.keys() == b.keys() and (atol or ours == theirs)
    for key in a:
        np.testing.assert_allclose(a[key], b[key], atol=atol, rtol=0, err_msg=key)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A run whose teacher is a network of ours, trained in the phase before."""
    home = tmp_path_factory.mktemp("live")
    run.run(tree(**LONG), str(home))
    return home


def test_a_teacher_that_nobody_learns_from_is_said(tmp_path, monkeypatch, capsys):
    """As where a flag replaces the student's teacher and the recipe's own phase stays."""

    def stop(*_):
        raise InputError("stopped here")

    monkeypatch.setattr(run, "batches_of", stop)
    np.savez(tmp_path / "a.npz", logits=np.eye(5, dtype=np.float32)[SYNTHETIC.train.labels])
    note = "note: phase teacher: no other phase learns from it; --config.phases=\"('student',)\" leaves it out"
    for changes, expected in (
        ({"student__teacher": f"logits:{tmp_path / 'a.npz'}"}, True),
        ({"student__teacher": f"logits:{tmp_path / 'a.npz'}", "student__init__student": "phase:teacher"}, False),
        ({"student__teacher": f"logits:{tmp_path / 'a.npz'}", "phases": ("student",)}, False),
        ({"phases": ("teacher",)}, False),
        ({}, False),
    ):
        with pytest.raises(InputError, match="stopped here"):
            run.run(tree(**LONG, **changes), str(tmp_path / "run"), overwrite=True)
        assert (note in capsys.readouterr().out) == expected, changes


@pytest.fixture
def here(tmp_path, live, monkeypatch):
    """The current directory, with a module that wraps that teacher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write(tmp_path, live)
    yield tmp_path
    sys.modules.pop("wrapped", None)


@pytest.fixture
def right():
    """Logits of the training set that are highest at the label."""
    return 9 * np.eye(5, dtype=np.float32)[SYNTHETIC.train.labels]


@pytest.fixture
def table(here):
    """An .npz file by the recipe in the docs, of the wrapped teacher."""
    space = {}
    for block in re.findall(r"```python\n(.*?)```", OWN, re.S):
        if "def write_logits" in block:
            exec(block, space)
    function = python_function.read("wrapped:teacher", num_classes=5, image_shape=(8, 8, 3), batch_size=8)
    logits = lambda params, images: function.model.call(params, images).logits  # noqa: E731
    logits.params = function.loaded.variables.params
    space["write_logits"](here / "table.npz", logits, SYNTHETIC, batch_size=8)
    return here / "table.npz"


def test_a_function_that_wraps_a_network_gives_its_student(live, here):
    """Bit for bit with parameters that it offers; XLA folds constants, so within rounding without."""
    summary = run.run(alone("python:wrapped:teacher"), str(here / "offered"))
    assert_same(live, here / "offered")
    measured = run.files.read_json(live / "summary.json")["phases"]["student"]["teacher"]
    teacher = summary["phases"]["student"]["teacher"]
    assert teacher["origin"] == "python:wrapped:teacher" and teacher["top1"] == measured["top1"]
    assert summary["phases"]["student"]["agreement_last"] is not None
    run.run(alone("python:wrapped:closed"), str(here / "closed"))
    assert_same(live, here / "closed", atol=1e-5)


def test_a_table_gives_the_student_of_the_live_teacher(live, here, table, capsys):
    """Without augmentation, bit for bit, since the recipe computes it by the same program on batches of one size."""
    summary = run.run(alone(f"logits:{table}"), str(here / "run"))
    assert_same(live, here / "run")
    assert f"note: student: logits:{table}: an image has the same logits however it is" in capsys.readouterr().out
    assert summary["phases"]["student"]["teacher"]["top1"] is not None
    run.run(alone(f"logits:{table}", data__stream=True, data__workers=0), str(here / "streamed"))
    assert_same(live, here / "streamed")


def test_a_table_without_test_logits_is_not_measured(here, right, capsys):
    """Nor is another teacher beside it: no row compares the student with a part of who taught it."""
    np.savez("train.npz", logits=right.astype(np.float16))
    config_tree = alone("logits:train.npz,python:wrapped:teacher", teacher_check=True)
    summary = run.run(config_tree, str(here / "run"))["phases"]["student"]
    assert summary["teacher"]["top1"] is None and summary["agreement_last"] is None and summary["top1_last"] is not None
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: student: logits:tr")]
    assert line.endswith("no array test_logits, so that the teacher is not measured: no accuracy, no agreement")
    assert all("agreement" not in row for row in rows(here / "run"))
    dry_run(config_tree, str(here / "dry"))
    said = capsys.readouterr().out
    for text in ("logits:train.npz\n", "python:wrapped:teacher, 537 parameters\n"):
        assert f"  teacher: {text}" in said
    assert line in said and not (here / "dry").exists()


def test_rows_in_another_order_are_refused(here, right):
    np.savez("right.npz", logits=right)
    run.prepare(alone("logits:right.npz", teacher_check=True), str(here / "run"))
    np.savez("turned.npz", logits=np.roll(right, 1, axis=1))
    message = "^config.student.teacher: logits:turned.npz: its highest logit is the label's for 0.00% .*=False insists"
    with pytest.raises(InputError, match=message):
        run.prepare(alone("logits:turned.npz", teacher_check=True), str(here / "run"))
    run.prepare(alone("logits:turned.npz", teacher_check=False), str(here / "run"))


@pytest.mark.full
def test_several_teachers_under_augmentation_in_bfloat16(here, table):
    """A trained phase, a function and a table, of which a term reads one; what is not ours keeps its own precision."""
    config_tree = tree(student__teacher=f"phase:teacher,python:wrapped:teacher,logits:{table}", precision="bfloat16")
    config_tree["student"]["terms"]["kd"]["teacher"] = 1
    summary = run.run(config_tree, str(here / "run"))["phases"]["student"]["teacher"]
    assert summary["digest"].count(",") == 2 and summary["top1"] is not None


@pytest.mark.parametrize("kind", ["python", pytest.param("logits", marks=pytest.mark.full)])
def test_a_resume_under_another_teacher_is_refused(live, here, table, kind):
    origin = {"python": "python:wrapped:teacher", "logits": "logits:table.npz"}[kind]
    run.run(alone(origin), str(here / "run"))
    (here / "run" / "student" / "DONE").unlink()
    run.run(alone(origin), str(here / "run"))  # the same one goes on
    (here / "run" / "student" / "DONE").unlink()
    if kind == "python":
        write(here, live, returned="2 * outputs.logits")
    else:
        with np.load(table) as arrays:
            np.savez(table, **{**arrays, "logits": 2 * arrays["logits"]})
    with pytest.raises(InputError, match=f"was trained with another teacher than {origin} now is; add --overwrite"):
        run.run(alone(origin), str(here / "run"))


def test_a_function_near_chance_is_refused(here):
    with pytest.raises(InputError, match="config.student.teacher: python:wrapped:rejected has top-1 .* near chance"):
        run.run(alone("python:wrapped:rejected", teacher_check=True), str(here / "run"))


@pytest.mark.parametrize(("origin", "method", "message"), [
    ("logits:table.npz", "mlld", "compares two views of an image, for which logits:table.npz has the same logits"),
    ("logits:table.npz", "fitnet", r"needs feature maps \(teacher.stages\), which logits:table.npz has not"),
    ("logits:table.npz", "rkd", r"needs pooled features \(teacher.pooled\), which logits:table.npz has not"),
    ("logits:table.npz", "ab", r"needs pre-activation features \(teacher.preacts\), which logits:table.npz has not"),
    ("python:wrapped:closed", "cat_kd", r"needs class activation maps \(teacher.cam\), which python:wrapped:closed ha"),
    ("python:wrapped:closed", "ofd", "ofd: a FunctionNetwork cannot be the teacher: it has no bn_before_relu"),
    *(("python:wrapped:closed", method, None) for method in ("mlld", "fitnet", "rkd", "ab", "reviewkd")),
])  # fmt: skip
def test_what_methods_read_beside_logits(live, here, table, origin, method, message):
    """Features and other views come from a function that gives them; who does not is refused by name."""
    write(here, live, returned="outputs._replace(cam=None)")
    config_tree = alone(origin, student__terms={"ce": recipes.member("ce"), method: recipes.member(method)})
    config_tree["student"]["refine_order"] = ()
    if message is None:
        run.prepare(config_tree, str(here / "run"))
        return
    with pytest.raises(InputError, match=f"^config.student.terms.{method}: {message}") as e:
        run.prepare(config_tree, str(here / "run"))
    assert not (here / "run").exists()
    assert method == "ofd" or str(e.value).endswith("; accepted: another config.student.teacher")


def test_what_is_wrong_is_named_before_anything_trains(here):
    for origin, message in (("python:wrapped:none", "no function none in "), ("logits:no.npz", "there is no such")):
        with pytest.raises(InputError, match=f"^config.student.teacher: {origin}: {message}"):
            run.run(tree(student__teacher=origin), str(here / "run"))
    assert not (here / "run").exists()
