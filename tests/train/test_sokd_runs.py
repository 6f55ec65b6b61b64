"""SoKD in whole runs: a search that is killed resumes bit for bit, ends when it should, and can hold examples out."""

import json

import numpy as np
import pytest
from etils import epath

from configs import sokd_ablation, sokd_fitnet
from kd_jax import InputError
from kd_jax.data.resident import Split, train_index
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.train import run
from tests.conftest import shrunk
from tests.train.resuming import assert_resumes

pytestmark = pytest.mark.usefixtures("tiny_resnet8", "simple_operations")

LONG = {"student__steps": 8, "checkpoint__every": 2, "log__every": 2, "student__refine__dafa__rate": 0.05}


def tree(**changes):
    config = sokd_fitnet.get_config("resnet8,resnet8,smoke")
    config.student.refine.dam.weight = config.student.terms.fitnet.weight = 1.0
    config.student.refine.dafa.search_epochs, config.student.refine.dafa.stages = 1, (2,)  # five steps
    return json.loads(json.dumps(shrunk(config, **changes)))


def policy_at(folder, step):
    training = Checkpoints(epath.Path(folder / "student"), read_only=True).read("training", step=step)[0]["training"]
    return {key: np.asarray(leaf) for key, leaf in training.items() if key.startswith("['policy']")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sokd")
    return folder, run.run(tree(**LONG, checkpoint__keep=9), str(folder))


def test_the_policy_moves_while_it_is_searched_and_then_stays(home):
    folder, _ = home
    at = {step: policy_at(folder, step) for step in (2, 4, 6, 8)}
    names = {"['policy']['dafa']['probability']", "['policy']['dafa']['weight']", "['policy']['dafa']['magnitude']"}
    assert names <= set(at[2]) and any("control" in key for key in at[2])
    for name in names - {"['policy']['dafa']['magnitude']"}:
        assert not np.array_equal(at[2][name], at[4][name]) and not np.array_equal(at[4][name], at[6][name])
        np.testing.assert_array_equal(at[6][name], at[8][name])


@pytest.mark.parametrize("step", [3, pytest.param(6, marks=pytest.mark.full)])
def test_a_killed_search_resumes_bit_for_bit(home, tmp_path, step):
    state = assert_resumes(tree(**LONG, checkpoint__keep=9), home[0], tmp_path, [(2 + step, True)], ["student"])
    assert any("policy_opt" in key for key in state["student"])


def test_what_a_run_leaves(home):
    folder, _ = home
    assert (folder / "student" / "maps.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logs = [row["logs"] for row in rows if row["phase"] == "student" and row["split"] == "train"]
    assert all({"dafa/use/Rotate", "dafa/magnitude/Noise", "dam/share", "dam/heat_std"} <= set(row) for row in logs)


def test_held_out_examples_are_not_trained_on_during_the_search():
    split = Split(steps=6, held_out=10)
    arguments = {"n": 40, "batch_size": 8, "split": split}
    held_out = {int(i) for step in range(6) for i in train_index(3, step, **arguments, held_out=True)[1]}
    trained = {int(i) for step in range(6) for i in train_index(3, step, **arguments)[1]}
    assert len(held_out) >= 8 and held_out & trained == set() and held_out | trained <= set(range(40))
    later = {int(i) for step in range(6, 11) for i in train_index(3, step, **arguments)[1]}
    assert later & held_out  # afterwards all are trained on
    np.testing.assert_array_equal(train_index(3, 7, **arguments)[1], train_index(3, 7, n=40, batch_size=8)[1])


@pytest.mark.full
def test_a_search_with_held_out_examples(tmp_path):
    run.run(tree(student__refine__dafa__holdout=0.25, student__refine__dafa__estimator="relaxed"), str(tmp_path))
    assert not any("control" in key for key in policy_at(tmp_path, 2))


def test_too_few_held_out_examples(tmp_path):
    with pytest.raises(InputError, match="config.student: holdout 0.1 of 40 training examples is 4; that and the rest"):
        run.run(tree(student__refine__dafa__holdout=0.1), str(tmp_path / "other"))


def test_the_ablation_differs_where_it_says():
    config = sokd_ablation.get_config("resnet8,resnet8,smoke")
    refine = {name: tuple(config[name].refine_order) for name in config.phases}
    assert refine == {
        "teacher": (), "fitnet": (), "dafa": ("dafa",), "dam": ("dam",), "both": ("dam", "dafa"),
        "random": ("dafa",), "unsearched": ("dafa",),
    }  # fmt: skip
    assert config.random.refine.dafa.start == "random" and config.random.refine.dafa.search_epochs == 0
