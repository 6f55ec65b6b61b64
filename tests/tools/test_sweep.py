"""Sweeps: which cells there are, what they share, what is refused before anything trains, and what becomes of runs."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
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
from tests.train.resuming import last_state, rows

FAKE = Path(__file__).with_name("fake_train.py")
SKD = "configs/skd.py:resnet8,resnet8,smoke"


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def cells(grids, config=SKD, seeds=1, changes=()):
    return sweep_cells.cells_of(sweep_cells.of_grids(config, grids), changes, seeds)


@pytest.mark.parametrize(("text", "values"), [
    ("1,2", ["1", "2"]), (" 0.5 , None ", ["0.5", "None"]), ("(1, 2),(3,)", ["(1, 2)", "(3,)"]),
    ("'a,b',c", ["'a,b'", "c"]), ("[1,(2,3)],4", ["[1,(2,3)]", "4"]), ("", []), (",", []),
])  # fmt: skip
def test_values_of_a_grid(text, values):
    assert sweep_cells.split_values(text) == values


def test_every_combination_times_seeds():
    there = cells(["student.refine.skd.temperature=1,4", "config.student.terms.kd.weight=2,20"], seeds=3)
    assert len(there) == 12 and len({cell.folder for cell in there}) == 12
    cell = there[-1]
    assert cell.folder == "student.refine.skd.temperature=4,student.terms.kd.weight=20/seed=2"
    assert cell.tree["student"]["refine"]["skd"]["temperature"] == 4.0 and cell.tree["seed"] == 2
    assert cell.tree["student"]["terms"]["kd"]["weight"] == 20.0


@pytest.mark.parametrize(("changes", "cached"), [
    ((), True), (("--config.student.epochs=3",), True), (("--config.teacher_cache=",), False),
    (("--config.teacher_cache=elsewhere",), False), (("--config.steps_per_call=50",), False),
])  # fmt: skip
def test_a_teacher_cache_for_all(tmp_path, changes, cached):
    there = sweep.with_cache(changes, str(tmp_path))
    assert (f"--config.teacher_cache={tmp_path / 'teacher_cache'}" in there) == cached and set(changes) <= set(there)
    cells([], changes=there)  # a configuration that can be


def test_seeds_alone():
    there = cells([], seeds=2)
    assert [cell.folder for cell in there] == ["skd/seed=0", "skd/seed=1"]
    later = sweep_cells.cells_of(sweep_cells.of_grids(SKD, []), (), 2, first=5)
    assert [(cell.folder, cell.tree["seed"]) for cell in later] == [("skd/seed=5", 5), ("skd/seed=6", 6)]
    (run,) = sweep_cells.cells_of(sweep_cells.of_grids(SKD, []), (), 2, first=5, together=True)
    assert run.folder == "skd/seeds=5-6"


def test_a_sweep_as_data(tmp_path):
    file = tmp_path / "parts.py"
    file.write_text(
        'CONFIG, SEEDS, BASELINE = "configs/skd.py", 4, "all"\n'
        "def sweep():\n"
        '    yield {"name": "all"}\n'
        '    yield {"name": "no simplifier", "student.refine.skd.simplifier": "none"}\n'
        '    yield {"config": "configs/compose.py:skd+dkd", "student.epochs": 3}\n'
    )
    variants, more = sweep_cells.of_file(f"{file}:resnet8,resnet8,smoke")
    assert more == {"seeds": 4, "baseline": "all"}
    assert [v.name for v in variants] == ["all", "no simplifier", "student.epochs=3"]
    assert variants[2].config == "configs/compose.py:skd+dkd,resnet8,resnet8,smoke"
    there = sweep_cells.cells_of(variants, (), 1)
    assert there[1].tree["student"]["refine"]["skd"]["simplifier"] == "none"
    assert set(there[2].tree["student"]["terms"]) == {"ce", "dkd"}
    file.write_text("CONFIG = 1 / 0\n")
    with pytest.raises(InputError, match="line 1: ZeroDivisionError"):
        sweep_cells.of_file(str(file))


@pytest.mark.parametrize(("grids", "message"), [
    (["student.refine.skd.temperatur=1"], "config.student.refine.skd.temperatur: unknown key"),
    (["student.epochs=many"], "config.student.epochs=many: must be int"),
    (["student.refine.skd.temperature="], "must be KEY=V1,V2,... with one value at least"),
    (["student.epochs"], "must be KEY=V1,V2,..."),
    (["phases=teacher"], "config.phases: cannot differ between cells; a sweep has the phases of its config"),
    (["phases[0]=teacher"], r"config.phases\[0\]: cannot differ"),
    (["seed=1,2"], "config.seed: cannot differ between cells; --seeds=N"),
    (["student.epochs=1,1"], "two cells are named student.epochs=1"),
    (["student.optim.lr=1,1.0"], "the cells student.optim.lr=1 and student.optim.lr=1.0 are the same run"),
    (["student.epochs=1", "config.student.epochs=2"], "student.epochs has a grid already"),
    (["student.optim.lr=-1"], "config.student.optim.lr: must be"),
    (["log.every=1,2"], "are the same run"),
    (["data.dir=" + "x" * 300], "no name of a cell"),
])  # fmt: skip
def test_what_is_refused(grids, message):
    with pytest.raises(InputError, match=message) as e:
        cells(grids)
    assert "\n" not in str(e.value)


def test_names_that_a_file_system_would_misread():
    (cell,) = cells(["data.dir=/a/b*?[c]"])
    assert cell.name == "data.dir=%2Fa%2Fb%2A%3F[c]"


def test_phases_are_shared_where_they_are_the_same():
    """By cells of one seed that differ behind them; a chain is shared as far as it is the same."""
    shared, last = jobs_of(cells(["student.terms.kd.weight=1,2"], seeds=2))
    assert [job.phases for job in shared] == [("teacher",)] * 2 and len(last) == 4
    assert all(job.phases == ("student",) and set(job.links) == {"teacher"} for job in last)
    assert last[0].links == last[2].links != last[1].links == last[3].links
    assert jobs_of(cells(["teacher.epochs=1,2"]))[0] == []  # nothing is the same
    ft = cells(["student.terms.ft.weight=1,2"], "configs/ft.py:resnet8x4,resnet8,smoke")
    shared, last = jobs_of(ft)
    assert [job.phases for job in shared] == [("teacher",), ("paraphrase",)]
    assert shared[1].links == {"teacher": shared[0].folder} and set(last[0].links) == {"teacher", "paraphrase"}
    assert "--config.phases=teacher,paraphrase" in shared[1].flags
    ft = cells(["paraphrase.epochs=2,3"], "configs/ft.py:resnet8x4,resnet8,smoke")
    assert [job.phases for job in jobs_of(ft)[0]] == [("teacher",)]
    alone = cells(["skd.refine.skd.temperature=1,2"], "configs/quickstart.py")
    assert {job.phases[0] for job in jobs_of(alone)[0]} == {"teacher", "alone", "kd"}
    assert jobs_of(cells(["student.epochs=7"]))[0] == []  # a single cell shares nothing


def test_seeds_together():
    """One run for all seeds of a cell, one teacher for all cells."""
    variants = sweep_cells.of_grids(SKD, ["student.terms.kd.weight=1,2"])
    there = sweep_cells.cells_of(variants, (), 3, together=True)
    assert [cell.folder for cell in there] == [f"student.terms.kd.weight={w}/seeds=0-2" for w in (1, 2)]
    assert all(cell.tree["seeds"] == 3 and list(cell.seeds) == [0, 1, 2] for cell in there)
    shared, last = jobs_of(there)
    assert [job.phases for job in shared] == [("teacher",)] and shared[0].flags[-1] == "--config.seeds=1"
    assert jobs_of(cells(["student.terms.kd.weight=1,2"]))[0][0].folder == shared[0].folder  # also if alone
    with pytest.raises(InputError, match="config.seeds: must be 1 in a sweep, got 2"):
        cells([], changes=("--config.seeds=2",))


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


def test_recipes_of_other_names_share_too():
    files = ("configs/skd.py:resnet8,resnet8,smoke", "configs/kd.py:resnet8,resnet8,smoke")
    variants = [sweep_cells.Variant(name, {}, name) for name in files]
    shared, last = jobs_of(sweep_cells.cells_of(variants, (), 1))
    assert len(shared) == 1 and last[0].links == last[1].links


def test_one_teacher_for_all_seeds():
    there = cells(["student.terms.ft.weight=1,2"], "configs/ft.py:resnet8x4,resnet8,smoke", seeds=2)
    shared, last = jobs_of(there, teacher_seed=7)
    teachers = [job for job in shared if job.phases == ("teacher",)]
    assert len(teachers) == 1 and "--config.seed=7" in teachers[0].flags and len({*last[0].links}) == 2
    assert len([job for job in shared if job.phases == ("paraphrase",)]) == 2  # which has the seed of its run


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


def planned(home, grids, seeds=2):
    return sweep.plan(str(home), cells(grids, seeds=seeds))


def test_a_failed_cell_stops_nothing_and_is_tried_again(tmp_path, monkeypatch, capsys):
    there = planned(tmp_path, ["student.terms.kd.weight=1,2"])
    monkeypatch.setenv("FAKE", "fail:weight=1/seed=1")
    assert not sweep.run(there, FAKE)
    said = capsys.readouterr().out
    assert "failed: student.terms.kd.weight=1/seed=1: failed: config.student: something is wrong" in said
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
    assert len(json.loads((tmp_path / "sweep.json").read_text())["cells"]) == 6


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
    (["--workdir=w", "--grid=student.epochs=1", "--baseline=student.epochs=2"], "no cell is named so"),
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
    dry_run(there, FAKE, (0, 1))
    said = capsys.readouterr().out
    assert "4 runs (2 cells, 2 seeds), and 2 phases that they share" in said
    assert "  student.terms.kd.weight=2/seed=1: new, takes teacher from shared/teacher-" in said
    assert said.count("2 steps taken") == 2 and "all together: about " in said and not (tmp_path / "new").exists()


SWEEPS = sorted(path.stem for path in (ROOT / "configs" / "sweeps").glob("[a-z]*.py"))
PAIR = {"cifar100": "", "imagenet": ""}  # these have pairs of their own


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) if n == "cifar100" else n for n in SWEEPS])
def test_every_sweep_as_data(name):
    """All cells are configurations that can be, in full and under smoke; its baseline is one of them."""
    pair = PAIR.get(name, "resnet20,resnet8")
    for size in ("", "smoke"):
        argument = ",".join(word for word in (pair, size) if word)
        variants, more = sweep_cells.of_file(f"configs/sweeps/{name}.py" + (f":{argument}" if argument else ""))
        there = sweep_cells.cells_of(variants, (), 1)
        assert len(there) >= 5
        if "baseline" in more:
            sweep_cells.find(there, more["baseline"])
        shared, _ = jobs_of(there)
        assert shared  # a teacher at least


def test_sweeps_are_listed():
    done = launch("sweep", "--list")
    assert done.returncode == 0 and all(f"configs/sweeps/{name}.py  " in done.stdout for name in SWEEPS)
    assert "SKD" in done.stdout.splitlines()[SWEEPS.index("skd")]


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
