"""SFTN in whole runs: resumed bit for bit, its branches left behind, and a student that starts from one."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from configs import sftn
from kd_jax import InputError, models
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.networks import read_method
from kd_jax.train import run
from kd_jax.train.evaluate import saved
from tests.conftest import shrunk
from tests.train.resuming import assert_resumes

pytestmark = pytest.mark.usefixtures("tiny_resnet8")


def tree(**changes):
    config = sftn.get_config("resnet8,resnet8,smoke")
    return json.loads(json.dumps(shrunk(config, **changes)))


LONG = {"teacher__steps": 6, "checkpoint__every": 2, "log__every": 2, "student__steps": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sftn")
    return folder, run.run(tree(**LONG), str(folder))


def test_the_teacher_is_only_the_teacher(home):
    folder, summary = home
    network, variables, _ = saved(str(folder), phase="teacher")
    plain = models.shapes(models.create("resnet8", 5), (8, 8, 3))[0]
    assert jax.tree.structure(variables) == jax.tree.structure(plain)
    assert summary["phases"]["teacher"]["params"] == models.count_parameters(plain.params)
    assert summary["phases"]["teacher"]["method_params"] > 0 == summary["phases"]["student"]["method_params"]
    assert (network.name, network.num_classes) == ("resnet8", 5)


def test_branches_are_reported_and_drawn(home):
    folder, _ = home
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logs = [r["logs"] for r in rows if r["phase"] == "teacher" and r["split"] == "train"]
    names = {f"sftn_branches/branch{i}/{what}" for i in (1, 2) for what in ("top1", "kl")}
    assert all(set(row) == names for row in logs) and all(0 <= r[n] <= 1 for r in logs for n in r if "top1" in n)
    assert run.report._panels(rows, {"sftn_branches/branch*/kl": "nats"})["nats"].keys() == {
        f"teacher: sftn_branches/branch{i}/kl" for i in (1, 2)
    }


def test_a_killed_teacher_phase_resumes_bit_for_bit(home, tmp_path):
    """Branches, their statistics and their momentum included."""
    state = assert_resumes(tree(**LONG), home[0], tmp_path, [(6, True)], ["teacher", "student"])["teacher"]
    for part in ("['method']['params']['sftn_branches']['branch1']['student']", "['method']['stats']", "trace"):
        assert any(part in key for key in state)


def first_student(workdir, **changes):
    """The student's variables after no step at all (a rate of next to nothing), and after what it began with."""
    config_tree = tree(**LONG, student__optim__lr=1e-30, student__optim__weight_decay=0.0, **changes)
    run.run(config_tree, str(workdir))
    return saved(str(workdir), phase="student")[1].params


@pytest.mark.parametrize("share", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_student_that_starts_from_a_branch(tmp_path, share):
    changes = {"teacher__terms__sftn_branches__share": share}
    random = first_student(tmp_path / "a", **changes)
    begun = first_student(tmp_path / "b", **changes, init="phase:teacher/sftn_branches")
    method_vars = read_method(Checkpoints(epath.Path(tmp_path / "b" / "teacher"), read_only=True))
    branch = method_vars.params["sftn_branches"]["shared" if share else "branch1"]["student"]
    assert set(branch) == {"conv2", "bn2", "bn3", "fc"} and set(random) == {"conv1", "bn0", "bn1", *branch}
    for name, params in begun.items():
        expected = branch.get(name, random[name])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-25), params, expected)
    assert not np.array_equal(branch["fc"]["kernel"], random["fc"]["kernel"])


def test_a_student_that_starts_from_a_trained_network(home, tmp_path):
    trained = saved(str(home[0]), phase="teacher")[1].params
    for i, origin in enumerate(("phase:teacher", f"checkpoint:{home[0] / 'teacher'}")):
        begun = first_student(tmp_path / str(i), init=origin)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-25), begun, trained)


@pytest.mark.parametrize(("changes", "message"), [
    ({"init": "phase:nobody"}, r"config.student.init.student: must be phase:NAME of an earlier phase \(teacher\)"),
    ({"init": "teacher"}, "config.student.init.student: must be empty, phase:NAME, phase:NAME/LABEL"),
    ({"init": "phase:teacher/ce"}, "unknown label 'ce' in teacher; known: sftn_branches$"),
    ({"init": "phase:teacher", "student__model": "resnet14"}, "is a resnet8, but config.student.model is resnet14"),
    ({"init": "phase:teacher/sftn_branches", "student__model": "vgg8"}, "but config.student.model is vgg8"),
    ({"init": "weights:/nowhere"}, "config.student.init.student: /nowhere: "),
    ({"init": "phase:teacher", "student__weights": "x"}, "must be empty where student.weights is given"),
    ({"teacher__terms__sftn_branches__student": "resnet9"}, "terms.sftn_branches: unknown model 'resnet9'"),
    ({"teacher__terms__sftn_branches__stages": ("1:9",)}, "terms.sftn_branches: sftn_branches: stages 1:9: "),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run.run(tree(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_an_unknown_student(tmp_path):
    """Branches of one family, another one distilled; two families at once."""
    config_tree = tree(teacher__terms__sftn_branches__student="wrn_16_1")
    config_tree["teacher"]["terms"]["other"] = {
        **config_tree["teacher"]["terms"]["sftn_branches"],
        "student": "resnet14",
    }
    config_tree["teacher"]["terms"]["other"]["kind"] = "sftn_branches"
    run.run(config_tree, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"other/ce", "other/kl", "sftn_branches/ce", "sftn_branches/kl"} < set(rows[0]["terms"])
