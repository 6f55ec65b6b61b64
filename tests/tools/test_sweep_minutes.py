"""A sweep for some minutes: which seeds fit, that they are whole, and what becomes of the others."""

import os
import time
from types import SimpleNamespace

import pytest

from kd_jax import InputError
from kd_jax.distributed.parent import STARTER
from kd_jax.tools import sweep, sweep_cost, sweep_jobs, sweep_minutes
from kd_jax.tools.sweep_cost import Cost, costs_of, fitting, seconds_of
from tests.commands import launch
from tests.conftest import ROOT
from tests.tools.sweeps import FAKE, SKD, planned

GRID = ["student.terms.kd.weight=1,2"]


def seeds_in(part):
    return sorted({cell.seed for cell in part.cells})


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def starts(home):
    """Folder -> how often a run has started there."""
    return {str(file.parent.relative_to(home)): len(file.read_text().split()) for file in home.glob("*/*/starts")}


def test_seeds_come_one_after_the_other(tmp_path):
    there = planned(tmp_path, GRID, seeds=3)
    jobs = there.shard(0, 1)
    assert [job.cell.seed for job in jobs] == [0] * 3 + [1] * 3 + [2] * 3
    assert [job.phases for job in jobs] == [("teacher",), ("student",), ("student",)] * 3
    part = there.of_seeds([1])
    assert part.shard(0, 1) == jobs[3:6] and seeds_in(part) == [1] and len(part.cells) == 2


def test_whole_seeds_that_fit():
    seconds = {1: 100.0, 2: 100.0, 3: 250.0, 4: 1.0}  # of seed 0 all is done
    two = "seeds 1 to 2: about 3 min, one run after the other; left out: seeds 3 to 4, about 4 min for the first"
    for limit in (200.0, 300.0):  # seed 4 would fit, but seed 3 comes before
        assert fitting(seconds, limit) == two
    assert fitting(seconds, 451.0) == "seeds 1 to 4: about 8 min, one run after the other"
    assert fitting({5: 7.0}, 8.0) == "seed 5: about 7 s, one run after the other"
    for limit, left in ((99.0, "99 s"), (-3.0, "0 s"), (float("nan"), "")):
        with pytest.raises(InputError, match=f"--minutes: the runs of seed 1 take about 2 min.*{left}.*; give more"):
            fitting(seconds, limit)


def test_a_seed_takes_what_its_runs_take(tmp_path, monkeypatch):
    """Training and start of every run that is not done; a shared phase counts once."""
    there = planned(tmp_path, GRID, seeds=2)
    costs = {job.folder: Cost(10.0 + i, 0.5) for i, job in enumerate(there.shard(0, 1))}
    assert seconds_of(there, costs) == {0: 10 + 11 + 12 + 1.5, 1: 13 + 14 + 15 + 1.5}
    done = [job.folder for job in there.shard(0, 1)][:3]
    assert seconds_of(there, {f: c for f, c in costs.items() if f not in done}) == {1: 43.5}


def test_costs_are_of_steps_and_of_the_start(tmp_path, monkeypatch):
    there = planned(tmp_path, ["student.steps=20,30"], seeds=1)
    dry = []

    def dry_run(tree, workdir):
        dry.append(workdir)
        time.sleep(0.2)
        return {"teacher": 0.5, "student": 0.25}

    monkeypatch.setattr(sweep_cost, "dry_run_of", dry_run)
    costs = costs_of(there, there.shard(0, 1))
    assert len(dry) == 1  # both cells are of one kind
    shared, one, two = (costs[job.folder] for job in there.shard(0, 1))
    assert (shared.training, one.training, two.training) == (0.5 * 2, 0.25 * 20, 0.25 * 30)
    assert one.start == two.start == shared.start and 0.1 <= one.start < 1  # half of the phases each


def run_for(there, minutes, monkeypatch, seconds):
    """Run with a measured cost of every run that is not done, its start left out."""

    def measured(whole):
        jobs = [job for job in whole.shard(0, 1) if not sweep_jobs.is_done(whole.home, job)]
        return {job.folder: Cost(seconds, 0.0) for job in jobs}

    monkeypatch.setattr(sweep_minutes, "_measured", measured)
    return sweep_minutes.run(there, FAKE, minutes)


@pytest.mark.full  # no run starts too late: below
def test_more_minutes_take_more_seeds(tmp_path, monkeypatch, capsys):
    there = planned(tmp_path, GRID, seeds=4)
    assert run_for(there, 31 / 60, monkeypatch, 5.0)  # by what was measured two seeds of three runs
    said = capsys.readouterr().out
    assert "into the time fit seeds 0 to 1: about 30 s, one run after the other; left out: seeds 2 to 3" in said
    first = starts(tmp_path)
    assert len(first) == 12 and set(first.values()) == {1}  # they went faster than measured: all four seeds
    assert run_for(there, 31 / 60, monkeypatch, 5.0) and starts(tmp_path) == first
    assert "all are done" in capsys.readouterr().out
    more = planned(tmp_path, GRID, seeds=5)
    with pytest.raises(InputError, match="the runs of seed 4 take about 15 s, one after the other, but 6 s are left"):
        run_for(more, 0.1, monkeypatch, 5.0)
    assert starts(tmp_path) == first


@pytest.mark.parametrize(("factor", "begun"), [(1.0, [0, 1, 2]), (1.2, [0, 1]), (2.0, [0]), (0.4, [0, 1, 2, 3, 4])])
def test_a_seed_begins_where_its_time_is_left(tmp_path, monkeypatch, capsys, factor, begun):
    """By what the seeds before took in fact, `factor` times what was measured."""
    clock, runs = SimpleNamespace(now=100.0), []

    def run_seeds(part, train, *, count, until):
        assert until == 100 + 32 and len(part.shard(0, 1)) == 3
        runs.extend(seeds_in(part))
        clock.now += factor * 9
        return seeds_in(part) != [1]  # which fails

    monkeypatch.setattr(sweep_minutes, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(sweep, "run", run_seeds)
    assert run_for(planned(tmp_path, GRID, seeds=5), 32 / 60, monkeypatch, 3.0) == (1 not in begun)
    said = capsys.readouterr().out
    assert runs == begun and "fit seeds 0 to 2: about 27 s" in said
    assert ("not begun: seed" in said) == (len(begun) < 5)


def test_no_run_starts_when_the_time_is_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE", "seconds:1.5")
    there = planned(tmp_path, GRID, seeds=2)
    assert sweep.run(there, FAKE, until=time.monotonic() + 1.0)
    said = capsys.readouterr().out
    assert "[1/6] teacher (seed 0): teacher top1 50.00%" in said  # what runs goes on
    assert "the time is over: 5 runs were not started; the same command goes on" in said and "failed" not in said
    monkeypatch.setenv("FAKE", "")
    assert sweep.run(there, FAKE) and set(starts(tmp_path).values()) == {1} and len(starts(tmp_path)) == 6


@pytest.mark.parametrize(("flags", "message"), [
    (["--minutes=9", "--together"], "--minutes and --together: seeds that train as one run cannot be cut"),
    (["--minutes=9", "--shard=0/2"], "--minutes and --shard: shards would take different seeds"),
    (["--minutes=many"], "flag --minutes=many"),
])  # fmt: skip
def test_the_command_refuses(tmp_path, flags, message):
    done = launch("sweep", f"--config={SKD}", f"--workdir={tmp_path / 'w'}", "--seeds=2", *flags)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_what_measures_is_a_process_of_its_own(tmp_path):
    there = planned(tmp_path, GRID, seeds=1)
    assert sweep.run(there, FAKE)
    assert sweep_minutes._measured(there) == {}  # all is done
    assert STARTER not in os.environ


@pytest.mark.full
def test_the_command_measures_in_a_process_of_its_own(tmp_path):
    done = launch("sweep", f"--config={SKD}", f"--workdir={tmp_path / 'w'}", "--seeds=2", "--minutes=0.01")
    assert done.returncode == 2 and not (tmp_path / "w").exists()
    assert done.stderr.startswith("error: --minutes: the runs of seed 0 take about ") and done.stderr.count("\n") == 1
    assert done.stdout == "measuring a step of every kind of run\n"
