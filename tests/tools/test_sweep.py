"""Sweeps: what becomes of their runs."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from threading import Thread

import numpy as np
import pytest

from kd_jax import InputError
from kd_jax.tools import sweep, sweep_cells, sweep_jobs
from kd_jax.tools.report import report
from kd_jax.tools.report_runs import find
from kd_jax.tools.report_tables import rows_of
from kd_jax.tools.sweep_cost import dry_run
from kd_jax.tools.sweep_shared import jobs_of
from kd_jax.train import run
from tests.commands import launch
from tests.conftest import ROOT, shrunk
from tests.tools.sweeps import FAKE, SKD, cells, planned
from tests.train.resuming import last_state, rows


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("tiny_resnet8", "shared_programs")
def test_a_report_reads_seeds_that_trained_together(tmp_path):
    small = ("--config.data.synthetic.size=8", "--config.data.synthetic.classes=5")
    variants = sweep_cells.of_grids(SKD, ["student.terms.kd.weight=1,2"])
    there = sweep.plan(str(tmp_path), sweep_cells.cells_of(variants, small, 2, together=True))
    sweep.write_record(there, FAKE)
    run.run(there.cells[0].tree, str(tmp_path / there.cells[0].folder))
    one, two = rows_of(find([str(tmp_path)]).runs, "")
    summary = json.loads((tmp_path / there.cells[0].folder / "summary.json").read_text())["phases"]["student"]
    assert one.values == {entry["seed"]: entry["top1_last"] for entry in summary["seeds"]} and len(one.values) == 2
    assert [run.seed for run in two.missing] == [0, 1]


@pytest.mark.usefixtures("tiny_resnet8", "shared_programs")
def test_a_run_with_a_linked_teacher_is_the_plain_run(tmp_path):
    """Bit for bit, and row by row; its command may be given again, with --overwrite too."""
    from configs import kd

    tree = json.loads(json.dumps(shrunk(kd.get_config("resnet8,resnet8,smoke"), student__steps=4)))
    plain = run.run(tree, str(tmp_path / "plain"))
    other = json.loads(json.dumps(tree)) | {"name": "teacher", "phases": ["teacher"]}
    other["student"]["optim"]["lr"] = 0.7  # a phase that does not run is no part of what a run is
    run.run(other, str(tmp_path / "shared" / "x"))
    run.run({**tree, "name": "teacher", "phases": ["teacher"]}, str(tmp_path / "shared" / "x"))
    job = jobs_of(cells(["student.terms.kd.weight=2"]))[1][0]._replace(
        folder="cell/seed=0", links={"teacher": "shared/x"}
    )
    sweep_jobs.link(tmp_path, job)
    cell = tmp_path / "cell" / "seed=0"
    assert (cell / "teacher").is_symlink() and not os.path.isabs(os.readlink(cell / "teacher"))
    summary = run.run(tree, str(cell))
    assert rows(cell) == rows(tmp_path / "plain")
    assert summary["phases"]["student"]["teacher"] == plain["phases"]["student"]["teacher"]
    one, two = (last_state(folder, "student") for folder in (cell, tmp_path / "plain"))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    run.run(tree, str(cell), overwrite=True)
    assert not (cell / "teacher").is_symlink() and (tmp_path / "shared" / "x" / "teacher" / "DONE").exists()


def test_a_failed_cell_stops_nothing_and_is_tried_again(tmp_path, monkeypatch, capsys):
    there = planned(tmp_path, ["student.terms.kd.weight=1,2"])
    monkeypatch.setenv("FAKE", "fail:weight=1/seed=1")
    assert not sweep.run(there, FAKE)
    said = capsys.readouterr().out
    assert "student.terms.kd.weight=1/seed=1: failed: config.student: something is wrong" in said
    assert "[6/6]" in said and said.count("student top1 50.00%") == 3
    monkeypatch.setenv("FAKE", "")
    assert sweep.run(there, FAKE)
    assert "; 5 of these are done" in capsys.readouterr().out
    starts = {job.folder: len((tmp_path / job.folder / "starts").read_text().split()) for job in there.shard(0, 1)}
    assert starts.pop("student.terms.kd.weight=1/seed=1") == 2 and set(starts.values()) == {1}


def test_only_the_last_start_counts(tmp_path):
    output = tmp_path / "output.txt"
    assert sweep_jobs.printed_error(output) == ""
    output.write_text("$ python train.py\nerror: no data\n")
    assert sweep_jobs.printed_error(output) == "no data"
    output.write_text("$ python train.py\nerror: no data\n$ python train.py\nstep 1\n")
    assert sweep_jobs.printed_error(output) == ""


def test_what_needs_a_failed_phase_fails_with_it(tmp_path, monkeypatch, capsys):
    there = planned(tmp_path, ["student.terms.kd.weight=1,2"])
    broken = there.shared[0].folder
    monkeypatch.setenv("FAKE", f"fail:{broken}")
    assert not sweep.run(there, FAKE)
    said = capsys.readouterr().out
    assert (
        said.count(f": failed: {broken} failed") == 4 and said.count("top1 50.00%") == 3
    )  # said as it fails, and last


def test_a_damaged_summary_stops_nothing_but_what_needs_it(tmp_path, capsys):
    there = planned(tmp_path, ["student.terms.kd.weight=1,2"], seeds=1)
    assert sweep.run(there, FAKE)
    damaged, again = (tmp_path / job.folder / "summary.json" for job in there.last)
    damaged.write_text('{"phases": ')
    again.unlink()
    capsys.readouterr()
    assert not sweep.run(there, FAKE) and again.exists()
    said = capsys.readouterr().out
    assert f"failed: {damaged}: not readable JSON" in said and "--overwrite" not in said and "[3/3]" in said
    damaged.write_text("{}")
    assert not sweep.run(there, FAKE)
    assert f"{damaged}: is no summary of a run" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, '{"phase": "teach', "null\n"])
def test_rows_that_a_shared_phase_has_lost_stop_nothing(tmp_path, text):
    there = planned(tmp_path, ["student.terms.kd.weight=1,2"], seeds=1)
    shared = tmp_path / there.shared[0].folder
    shared.mkdir(parents=True)
    (shared / "summary.json").write_text('{"phases": {"teacher": {"top1_last": 0.5}}}')
    if text is not None:
        (shared / "metrics.jsonl").write_text(text)
    assert sweep.run(there, FAKE)


def test_a_folder_that_cannot_be_made_stops_no_other_cell(tmp_path, capsys):
    there = planned(tmp_path, ["student.terms.kd.weight=1,2"], seeds=1)
    (tmp_path / "student.terms.kd.weight=1").touch()
    assert not sweep.run(there, FAKE)
    said = capsys.readouterr().out
    assert "weight=1/seed=0: failed: [Errno 20] Not a directory" in said and "[3/3]" in said


@pytest.mark.parametrize(("text", "message"), [
    ("", "not readable JSON .*; restore it, or delete it, and the same command writes it anew"),
    ("{}", "is no record of a sweep"), ('{"baseline": "", "cells": [1]}', "is no record of a sweep"),
])  # fmt: skip
def test_a_damaged_record_is_said(tmp_path, text, message):
    (tmp_path / "sweep.json").write_text(text)
    for reader in (lambda: sweep.run(planned(tmp_path, [], seeds=1), FAKE), lambda: find([str(tmp_path)])):
        with pytest.raises(InputError, match=f"sweep.json: {message}") as e:
            reader()
        assert "--overwrite" not in str(e.value)


def test_a_folder_where_a_file_stands_is_refused(tmp_path):
    (tmp_path / "f").touch()
    for name, why in (("f", ""), ("f/sub", f"{tmp_path / 'f'} ")):
        with pytest.raises(InputError, match=f"--workdir={tmp_path / name}: {why}is a file, not a folder"):
            planned(tmp_path / name, [], seeds=1)


def test_a_dry_run_of_an_empty_shard(tmp_path, capsys):
    dry_run(planned(tmp_path, ["student.terms.kd.weight=1,2"], seeds=1), FAKE, (7, 8))
    assert "0 of 2 runs" in capsys.readouterr().out


def test_shards_count_from_0_or_from_1():
    assert [sweep.parse_shard(f"{i}/3") for i in range(4)] == [(0, 3), (1, 3), (2, 3), (0, 3)]
    for text in ("4/3", "0/0", "-1/2", "1", "a/b", "1/"):
        with pytest.raises(InputError, match=f"--shard={text}: must be I/N"):
            sweep.parse_shard(text)


def test_shards_and_jobs(tmp_path, monkeypatch):
    """Two shards at once, each of two runs at once, are one sweep: every job has run once."""
    monkeypatch.setenv("FAKE", "seconds:0.5")
    monkeypatch.setattr(sweep_jobs, "WAIT", 0.2)
    there, well = planned(tmp_path, ["student.terms.kd.weight=1,2,3"]), []
    threads = [Thread(target=lambda i=i: well.append(sweep.run(there, FAKE, count=2, shard=(i, 2)))) for i in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)  # processes have numbers of their own, by which they name what they write; threads have not
    for thread in threads:
        thread.join()
    assert well == [True, True] and len(there.last) == 6
    for job in there.shard(0, 1):
        assert sweep_jobs.is_done(tmp_path, job)
    for job in there.last:
        assert len((tmp_path / job.folder / "starts").read_text().split()) == 1, job.folder
    written = json.loads((tmp_path / "sweep.json").read_text())["cells"]
    assert len(written) == 6 and all(cell["phases"] == ["student"] for cell in written)


def test_a_run_has_not_failed_that_another_sweep_ends_as_this_one_finds_it_held(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE", "late:1")
    monkeypatch.setattr(sweep_jobs, "WAIT", 0.2)
    there, well = planned(tmp_path, ["student.terms.kd.weight=1"]), []
    job = there.last[0]
    folder = tmp_path / job.folder
    folder.mkdir(parents=True)
    thread = Thread(target=lambda: well.append(sweep.run(there, FAKE)))
    with open(folder / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread.start()
        while not (folder / "late").exists():
            time.sleep(0.02)
        (folder / "summary.json").write_text(json.dumps({"phases": {"student": {"top1_last": 0.5}}}))
    thread.join()
    assert well == [True] and not (folder / "starts").exists()


@pytest.mark.parametrize(("number", "code"), [
    pytest.param(signal.SIGTERM, 143, marks=pytest.mark.full), (signal.SIGKILL, -9),
])  # fmt: skip
def test_no_run_outlives_its_sweep(tmp_path, number, code):
    """A signal is handed on; a sweep that is killed takes its runs with it."""
    command = [
        sys.executable, "launch/sweep.py", f"--config={SKD}", f"--workdir={tmp_path}", "--grid",
        "student.terms.kd.weight=1,2", "--config.student.steps=100000",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = None
    while lock is None or not lock.exists():
        time.sleep(0.2)
        assert process.poll() is None
        lock = next(iter((tmp_path / "shared").glob("*/.lock")), None)
    process.send_signal(number)
    assert process.wait() == code
    until = time.monotonic() + 10
    while sweep_jobs.is_held(lock.parent) and time.monotonic() < until:
        time.sleep(0.1)
    assert not sweep_jobs.is_held(lock.parent)


@pytest.mark.parametrize(("flags", "message"), [
    (["--grid=student.epochs=1"], "--workdir: missing"),
    (["--workdir=w", "--sweep=configs/sweeps/none.py"], "give --config with --grid, or --sweep=FILE"),
    (["--workdir=w", "--shard=3/2"], "--shard=3/2: must be I/N with I from 0 to N - 1, or from 1 to N"),
    (["--workdir=w", "--grid=student.epoch=1"], "config.student.epoch: unknown key"),
    (["--workdir=w", "--grid=student.refine.skd.simplifier=none,degree"], "=degree: config.student.refine.skd: skd: "),
    (["--workdir=w", "--grid=student.epochs=1", "--baseline=student.epochs=2"], "no cell is named so"),
    (["--workdir=w", "--config.seed=5"], "--config.seed: every run of a sweep has its own"),
    (["--workdir=gs://b/w", "--grid=student.epochs=1"], "a sweep needs a folder of this machine"),
])  # fmt: skip
def test_the_command_refuses(flags, message):
    done = launch("sweep", f"--config={SKD}", *flags)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (ROOT / "w").exists()


@pytest.mark.usefixtures("tiny_resnet8", "shared_programs")
def test_a_dry_run(tmp_path, capsys):
    small = ("--config.data.synthetic.size=8", "--config.data.synthetic.classes=5")
    there = sweep.plan(str(tmp_path / "new"), cells(["student.terms.kd.weight=1,2"], seeds=2, changes=small))
    dry_run(there, FAKE, (0, 1), minutes=600)
    said = capsys.readouterr().out
    assert "4 runs (2 cells, 2 seeds), and 2 phases that they share" in said
    assert "  student.terms.kd.weight=2/seed=1: new, takes teacher from shared/teacher-" in said
    assert said.count("2 steps taken") == 2 and "all together: about " in said and not (tmp_path / "new").exists()
    assert "into 600 min fit seeds 0 to 1: about " in said and "left out" not in said


def table_of(home, out):
    """table.csv of a sweep without what depends on time and place."""
    report([str(home)], out=str(out))
    with open(out / "table.csv") as file:
        lines = list(csv.DictReader(file))
    timed = ("ms_per_step", "wall_seconds", "folder", "command")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


@pytest.mark.full
def test_a_sweep_that_is_killed_five_times_and_two_shards_end_alike(tmp_path):
    """Six cells, SIGKILL at random moments; and the same in two shards, one after the other: bit for bit."""
    flags = [f"--config={SKD}", "--grid=student.terms.kd.weight=1,2,3", "--seeds=2", "--config.student.steps=12",
             "--config.checkpoint.every=3", "--config.teacher_check=False"]  # fmt: skip
    command = [sys.executable, "launch/sweep.py", *flags]
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert subprocess.run([*command, f"--workdir={tmp_path / 'whole'}"], **quiet).returncode == 0
    moments = np.random.default_rng(0).uniform(4, 25, 5)
    for moment in moments:
        process = subprocess.Popen([*command, f"--workdir={tmp_path / 'killed'}"], **quiet)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert subprocess.run([*command, f"--workdir={tmp_path / 'killed'}"], **quiet).returncode == 0
    for shard in ("0/2", "1/2"):
        sharded = [*command, f"--workdir={tmp_path / 'shards'}", f"--shard={shard}"]
        assert subprocess.run(sharded, **quiet).returncode == 0
    whole, killed, shards = (
        table_of(tmp_path / name, tmp_path / f"of_{name}") for name in ("whole", "killed", "shards")
    )
    assert len(whole) == 6 and all(line["state"] == "done" for line in whole)
    assert whole == killed == shards
    for line in (tmp_path / "whole").glob("*/seed=*/metrics.jsonl"):
        for other in ("killed", "shards"):
            assert line.read_bytes() == (tmp_path / other / line.relative_to(tmp_path / "whole")).read_bytes()
