"""Evaluation of what is saved, and what a run says about itself."""

import json
import shutil
import sys

import pytest

from kd_jax import InputError
from kd_jax.train import report, run
from kd_jax.train.evaluate import evaluate
from tests.commands import launch
from tests.conftest import tree

pytestmark = pytest.mark.usefixtures("tiny_resnet8", "shared_programs")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run.run(json.loads(json.dumps(tree(teacher__steps=30, data__augment="none"))), str(folder))


def test_it_measures_what_the_run_measured(home):
    folder, summary = home
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for phase in ("teacher", "student"):
        measured = evaluate(str(folder), phase=phase)
        row = [r for r in rows if r["phase"] == phase and r["split"] == "test"][-1]
        assert {k: measured[k] for k in ("loss", "top1", "top5")} == {k: row[k] for k in ("loss", "top1", "top5")}
    assert evaluate(str(folder))["phase"] == "student"
    assert evaluate(str(folder), phase="teacher")["top1"] > 0.5  # it has learned: the test can tell


def test_it_measures_on_the_devices_that_there_are(home, tmp_path):
    """What a pod has trained, a laptop measures."""
    shutil.copytree(home[0], tmp_path, dirs_exist_ok=True)
    config_tree = json.loads((tmp_path / "config.json").read_text())
    config_tree["parallel"] = {"scope": "global", "mesh": [16, 4]}
    (tmp_path / "config.json").write_text(json.dumps(config_tree))
    assert evaluate(str(tmp_path)) == evaluate(str(home[0]))


def test_the_best_one_can_be_kept_and_measured(tmp_path):
    config_tree = tree(phases=("teacher",), teacher__steps=30, checkpoint__best=1, checkpoint__keep=1, seed=1)
    top1 = run.run(json.loads(json.dumps(config_tree)), str(tmp_path))["phases"]["teacher"]
    assert top1["top1_best"] > top1["top1_last"]  # else this would show nothing
    assert evaluate(str(tmp_path), best=True)["top1"] == top1["top1_best"]
    assert evaluate(str(tmp_path))["top1"] == top1["top1_last"]


def test_wrong_input(home, tmp_path):
    with pytest.raises(InputError, match="no run here"):
        evaluate(str(tmp_path))
    with pytest.raises(InputError, match="--phase=pupil: not a phase of .*; there are teacher, student"):
        evaluate(str(home[0]), phase="pupil")
    (tmp_path / "config.json").write_text((home[0] / "config.json").read_text())
    with pytest.raises(InputError, match="nothing is saved in .*student yet"):
        evaluate(str(tmp_path))


def test_the_command(tmp_path_factory):
    """Its process has the published network."""
    folder = tmp_path_factory.mktemp("published")
    run_it = ["--config=configs/kd.py:resnet8,resnet8,smoke", f"--workdir={folder}", "--config.phases=teacher"]
    assert launch("train", *run_it).returncode == 0
    top1 = json.loads((folder / "summary.json").read_text())["phases"]["teacher"]["top1_last"]
    done = launch("evaluate", f"--workdir={folder}", "--phase=teacher", f"--expect_top1={top1}")
    assert done.returncode == 0 and f"teacher (resnet8, step 2): top-1 {top1:.2%}" in done.stdout
    done = launch("evaluate", f"--workdir={folder}", "--expect_top1=0.999")
    assert done.returncode == 1 and "is below the expected 99.90%" in done.stderr
    done = launch("evaluate", "--phase=teacher")
    assert done.returncode == 2 and "--workdir: missing" in done.stderr


def test_a_teacher_near_chance_stops_the_run(tmp_path):
    config_tree = tree(teacher_check=True, data__augment="none", data__synthetic__test=100)
    with pytest.raises(InputError, match=r"config.student.teacher: phase:teacher has top-1 .* near chance \(20.00%\)"):
        run.run(config_tree, str(tmp_path / "a"))
    config_tree["teacher"]["steps"] = 30
    assert run.run(config_tree, str(tmp_path / "b"))["phases"]["student"]["teacher"]["top1"] > 0.5


def test_a_run_says_what_it_was(home):
    folder, summary = home
    assert summary["config"] == json.loads((folder / "config.json").read_text())
    revision = report.revision()
    assert summary["code"] == revision or revision is None
    assert set(summary["versions"]) >= {"kd_jax", "python", "jax", "flax", "optax"}
    assert summary["device"]["platform"] == "cpu"


def test_the_reading_of_a_table():
    """Differences against the size of the test set: said, and neither more nor less."""

    def phase(top1):
        return {"top1_last": top1, "teacher": {"origin": "phase:t"}}

    said = report.reading({"seed": 3, "phases": {"kd": phase(0.70), "skd": phase(0.72)}}, tests=10_000)
    assert "One seed (3)" in said and "skd against kd: +2.00 points, more than the 1.28" in said
    said = report.reading({"seed": 3, "phases": {"kd": phase(0.70), "skd": phase(0.72)}}, tests=1_000)
    assert "skd against kd: +2.00 points, within the 4.06" in said


def test_weights_and_biases_offline(tmp_path, host_patch, capfd):
    """Without the package one line; with it a run for each phase, whose file holds the rows and the configuration."""
    config_tree = tree(log__wandb="distillation")
    host_patch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"config.log.wandb: needs wandb; pip install 'kd_jax\[wandb\]'"):
        run.run(config_tree, str(tmp_path))
    host_patch.undo()
    wandb = pytest.importorskip("wandb")
    host_patch.setenv("WANDB_MODE", "offline")
    host_patch.setenv("WANDB_SILENT", "true")
    run.run(config_tree, str(tmp_path))
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and wandb.run is None
    held = [file.read_bytes() for file in files]
    (student,) = (text for text in held if b"test/agreement" in text)
    assert b"train/terms/kd" in student and b"distillation" in student and b"milestones" in student


def test_tensorboard(tmp_path, monkeypatch):
    """With tensorboardX: an event file a phase; without: one line, before anything starts."""
    config_tree = tree(log__tensorboard=True)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        InputError, match=r"config.log.tensorboard: needs tensorboardX; pip install 'kd_jax\[tensorboard\]'"
    ):
        run.run(config_tree, str(tmp_path))
    assert not list(tmp_path.iterdir())

    written = []

    class Board:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            pass

    monkeypatch.setitem(sys.modules, "tensorboardX", type("module", (), {"SummaryWriter": Board}))
    run.run(config_tree, str(tmp_path))
    assert (str(tmp_path / "tensorboard" / "student"), 1) in written
    assert {("train/terms/kd", 1), ("train/logs/skd/kept", 2), ("test/agreement", 2), ("train/lr", 1)} <= set(written)
