"""Whole runs: what they leave behind, that they resume bit for bit, and what they refuse."""

import json
import os
import pty
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from kd_jax import InputError
from kd_jax.engine.metrics import NonFiniteError
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.train import phase, run
from tests.conftest import ROOT, tree
from tests.train.long_run import LONG, assert_same_run, long_tree, quarters_loss, start
from tests.train.resuming import last_state, rows

pytestmark = pytest.mark.usefixtures("tiny_resnet8")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    home = tmp_path_factory.mktemp("unbroken")
    return home, run.run(long_tree(), str(home))


def test_what_a_run_leaves(unbroken):
    home, summary = unbroken
    assert json.loads((home / "summary.json").read_text()) == summary
    assert set(summary) >= {"recipe", "seed", "versions", "device", "phases"}
    student = summary["phases"]["student"]
    assert set(student) >= {
        "model", "params", "steps", "top1_last", "top1_best", "top5_last", "teacher",
        "ms_per_step", "images_per_second", "wall_seconds",
    }  # fmt: skip
    assert (student["model"], student["steps"], student["teacher"]["origin"]) == ("resnet8", 12, "phase:teacher")
    assert summary["phases"]["teacher"]["teacher"] is None
    assert student["teacher"]["top1"] == summary["phases"]["teacher"]["top1_last"]
    assert json.loads((home / "config.json").read_text()) == long_tree()
    assert (home / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "| student | resnet8 |" in (home / "report.md").read_text()
    for name in ("teacher", "student"):
        assert (home / name / "DONE").exists() and sorted(p.name for p in (home / name / "checkpoints").iterdir())


def test_rows(unbroken):
    home, _ = unbroken
    all_rows = rows(home)
    keys = [(r["phase"], r["split"], r["step"]) for r in all_rows]
    assert len(set(keys)) == len(keys)
    assert [k[2] for k in keys if k[:2] == ("student", "train")] == [3, 6, 9, 12]
    assert [k[2] for k in keys if k[:2] == ("student", "test")] == [5, 10, 12]
    train = next(r for r in all_rows if r["phase"] == "student" and r["split"] == "train")
    assert set(train) == {"phase", "step", "epoch", "split", "loss", "top1", "lr", "terms", "logs"}
    assert set(train["terms"]) == {"ce", "kd"} and "skd/kept" in train["logs"]
    assert train["loss"] == pytest.approx(sum(train["terms"].values()), rel=1e-5)
    assert train["epoch"] == 0.6 and train["lr"] == pytest.approx(0.05)
    test = [r for r in all_rows if r["split"] == "test"]
    assert all(set(r) >= {"loss", "top1", "top5"} and ("agreement" in r) == (r["phase"] == "student") for r in test)
    assert all(r["top1"] * 13 == pytest.approx(round(r["top1"] * 13), abs=1e-4) for r in test)  # 13 examples, each once


def test_a_finished_run_changes_nothing(unbroken, capsys):
    home, summary = unbroken
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file() and p.name != ".lock"}
    assert run.run(long_tree(), str(home)) == summary
    after = {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file() and p.name != ".lock"}
    assert before == after
    assert "| student | resnet8 |" in capsys.readouterr().out


def test_the_teacher_is_read_not_changed(unbroken):
    home, summary = unbroken
    reader = Checkpoints(epath.Path(home / "teacher"), read_only=True)
    assert reader.read("network")[1]["digests"]["network"] == summary["phases"]["student"]["teacher"]["digest"]
    assert not any("teacher" in key for key in last_state(home, "student"))


KILLS = ["save:2:15"]
MORE = ("train:14", "done", "seconds:1.0", "train:3", "train:7", "save:1:0", "save:3:40", "report")
MORE = [pytest.param(point, marks=pytest.mark.full) for point in MORE]


@pytest.mark.parametrize("point", KILLS + MORE)
def test_killed_and_started_again(unbroken, tmp_path, point):
    """SIGKILL, then the same command: the same bits as the run that nobody killed."""
    killed = start(tmp_path, point)
    _, errors = killed.communicate()
    assert killed.returncode == -9, errors[-2000:]
    run.run(long_tree(), str(tmp_path / "run"))
    assert_same_run(unbroken[0], tmp_path / "run")


@pytest.mark.full
def test_killed_twice_and_half_a_line_written(unbroken, tmp_path):
    home = tmp_path / "run"
    for point in ("train:5", "train:6"):
        killed = start(tmp_path, point)
        killed.communicate()
        assert killed.returncode == -9
    with (home / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "student", "step": 9, "spl')
    run.run(long_tree(), str(home))
    assert_same_run(unbroken[0], home)


@pytest.mark.parametrize(("point", "code"), [
    pytest.param("term:4", 143, marks=pytest.mark.full), pytest.param("int:9", 130, marks=pytest.mark.full),
    ("term:14", 143),
])  # fmt: skip
def test_stopped_by_a_signal_and_started_again(unbroken, tmp_path, point, code):
    """SIGTERM and SIGINT save at the next step boundary, wherever that is."""
    stopped = start(tmp_path, point)
    said, errors = stopped.communicate(timeout=120)
    assert stopped.returncode == code, errors
    step = int(point.split(":")[1])
    where = f"phase teacher, step {step} of 7" if step <= 7 else f"phase student, step {step - 7} of 12"
    name = {143: "SIGTERM", 130: "SIGINT"}[code]
    assert errors == f"error: stopped by {name} at {where}; saved, the same command resumes\n"
    phase = where.split()[1].rstrip(",")
    assert Checkpoints(epath.Path(tmp_path / "run" / phase), read_only=True).steps()[0] == (
        step if step <= 7 else step - 7
    )
    run.run(long_tree(), str(tmp_path / "run"))
    assert_same_run(unbroken[0], tmp_path / "run")


def test_on_a_terminal_that_is_closed(unbroken, tmp_path):
    """A lost connection: the run saves and ends, though nothing can be printed any more, and is told so twice."""
    screen, terminal = pty.openpty()
    stopped = start(tmp_path, "hangup:4", stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    shown = b""
    while b"waiting" not in shown:
        shown += os.read(screen, 4096)
    os.close(screen)
    assert stopped.wait(timeout=120) == 129, shown
    assert Checkpoints(epath.Path(tmp_path / "run" / "teacher"), read_only=True).steps()[0] == 4
    run.run(long_tree(), str(tmp_path / "run"))
    assert_same_run(unbroken[0], tmp_path / "run")


def test_two_runs_in_one_folder(unbroken, tmp_path):
    """The second is refused while the first lives; a killed one holds nothing."""
    first = start(tmp_path, "pause:3")
    while "paused" not in first.stdout.readline():
        assert first.poll() is None, first.stderr.read()
    with pytest.raises(InputError, match=rf"another run holds it \(process {first.pid} on "):
        run.run(long_tree(), str(tmp_path / "run"))
    first.kill()
    first.wait()
    run.run(long_tree(), str(tmp_path / "run"))
    assert_same_run(unbroken[0], tmp_path / "run")


def test_a_full_disk_ends_the_run_and_keeps_what_was_saved(unbroken, tmp_path, host_patch):
    from kd_jax.storage import checkpoints

    save, count = checkpoints.ocp.CheckpointManager.save, []

    def full(self, step, **kwargs):
        count.append(step)
        if len(count) == 4:
            raise OSError(28, "No space left on device")
        return save(self, step, **kwargs)

    host_patch.setattr(checkpoints.ocp.CheckpointManager, "save", full)
    with pytest.raises(checkpoints.StorageError, match="student: cannot save a checkpoint .*No space left on device"):
        run.run(long_tree(), str(tmp_path))
    host_patch.undo()
    run.run(long_tree(), str(tmp_path))
    assert_same_run(unbroken[0], tmp_path)


def test_a_damaged_teacher_is_trained_again_not_replaced(unbroken, tmp_path, capsys, quiet_orbax):
    home = tmp_path / "run"
    shutil.copytree(unbroken[0], home)
    step = home / "teacher" / "checkpoints" / "7"
    largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    largest.write_bytes(raw)
    run.run(long_tree(), str(home))
    said = capsys.readouterr().out
    assert "digest" in said and "teacher: resumed at step 4 of 7" in said
    assert_same_run(unbroken[0], home)


def test_another_run_in_the_folder_is_refused(unbroken, tmp_path):
    home = tmp_path / "run"
    shutil.copytree(unbroken[0], home)
    other = long_tree()
    other["student"]["terms"]["kd"]["weight"] = 0.5
    with pytest.raises(InputError, match=r"config.student.terms.kd.weight is 20.0 there and 0.5 here.*--overwrite"):
        run.run(other, str(home))
    moved = long_tree()
    moved["log"]["every"], moved["checkpoint"]["keep"] = 7, 5
    moved["data"]["dir"], moved["parallel"]["mesh"] = "/x", [1]
    run.run(moved, str(home))  # may move to another machine and log otherwise
    (home / "mine.txt").write_text("keep me")
    summary = run.run(other, str(home), overwrite=True)
    assert summary["phases"]["student"]["steps"] == 12 and (home / "mine.txt").read_text() == "keep me"
    assert json.loads((home / "config.json").read_text())["student"]["terms"]["kd"]["weight"] == 0.5


def test_a_teacher_from_another_run(unbroken, tmp_path):
    config_tree = tree(student__steps=2, phases=("student",), student__teacher=f"checkpoint:{unbroken[0] / 'teacher'}")
    summary = run.run(config_tree, str(tmp_path))
    assert summary["phases"]["student"]["teacher"]["digest"] == unbroken[1]["phases"]["student"]["teacher"]["digest"]
    config_tree["data"]["synthetic"]["classes"] = 6
    with pytest.raises(InputError, match="its classes is 5, the data's is 6"):
        run.run(config_tree, str(tmp_path / "other"))


def test_several_teachers(unbroken, tmp_path):
    both = f"phase:teacher,checkpoint:{unbroken[0] / 'student'}"
    summary = run.run(tree(student__teacher=both), str(tmp_path))
    teacher = summary["phases"]["student"]["teacher"]
    assert teacher["origin"] == both and teacher["digest"].count(",") == 1


def poisoned(host_patch, *steps):
    """Training batches of these steps (of any phase) hold a NaN."""
    train = phase.Resident.train

    def bad(self, step, *args):
        batch = train(self, step, *args)
        return {**batch, "image": batch["image"] * np.nan} if step in steps else batch

    host_patch.setattr(phase.Resident, "train", bad)


def test_bad_updates_can_be_skipped_up_to_a_number(tmp_path, host_patch):
    poisoned(host_patch, 1, 4)
    config_tree = tree(**LONG, skip_nonfinite=2)
    summary = run.run(config_tree, str(tmp_path))
    assert [p["skipped_updates"] for p in summary["phases"].values()] == [2, 2]
    assert all(np.isfinite(r["loss"]) for r in rows(tmp_path))
    state = last_state(tmp_path, "student")
    assert all(np.isfinite(leaf).all() for leaf in state.values())
    with pytest.raises(NonFiniteError, match="phase teacher, step 5: the loss is not finite .*skipped 1 before"):
        run.run({**config_tree, "skip_nonfinite": 1}, str(tmp_path / "less"))


def test_allowing_skips_changes_nothing_where_none_is_needed(unbroken, tmp_path):
    run.run(tree(**LONG, skip_nonfinite=3), str(tmp_path))
    one, two = (last_state(home, "student") for home in (unbroken[0], tmp_path))
    for key in one:  # another program, so not the same bits
        np.testing.assert_allclose(one[key], two[key], rtol=1e-3, atol=1e-5, err_msg=key)


def test_evaluation_leaves_training_alone(unbroken, tmp_path):
    """Fewer evaluations, the same training: the student is back in train mode after each."""
    run.run({**long_tree(), "eval": {"every": 1000}}, str(tmp_path))
    train = [[r for r in rows(home) if r["split"] == "train"] for home in (unbroken[0], tmp_path)]
    assert train[0] == train[1]
    one, two = (last_state(home, "student") for home in (unbroken[0], tmp_path))
    assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("scope", ["global", pytest.param("device", marks=pytest.mark.full)])
def test_four_devices(unbroken, tmp_path, scope):
    """The same run on 4 forced CPU devices; in global scope it is the run on one."""
    config_tree = long_tree()
    config_tree["parallel"]["scope"] = scope
    config_tree["log"]["every"] = 1 if scope == "device" else 3
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_tree))
    home = str(tmp_path / "four")
    code = "import json; from kd_jax.train import run; from tests import tiny; held = tiny.in_place(); "
    code += f"held.__enter__(); run.run(json.load(open({str(config)!r})), {home!r})"
    env = {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "devices: 4" in done.stdout
    four = rows(tmp_path / "four")
    if scope == "device":
        assert four[0]["loss"] == pytest.approx(quarters_loss(config_tree), rel=1e-5)
        return
    for a, b in zip(rows(unbroken[0]), four, strict=True):
        assert (a["phase"], a["step"], a["split"]) == (b["phase"], b["step"], b["split"])
        if a["phase"] == "teacher":  # later the rounding of another order of sums has grown
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


@pytest.mark.parametrize(("name", "advice"), [
    ("summary.json", "delete it, and the"), ("config.json", "--overwrite"), ("teacher/DONE", "delete it, and the"),
])  # fmt: skip
@pytest.mark.parametrize("content", ["", '{"seed": 0, "phas', "[1]"])
def test_damaged_documents_are_refused(unbroken, tmp_path, name, advice, content):
    home = tmp_path / "run"
    shutil.copytree(unbroken[0], home)
    (home / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}: not .*{advice}") as e:
        run.run(long_tree(), str(home))
    assert "\n" not in str(e.value)
