"""What a sweep would take, before it starts: its runs, the hours by a measured step, the disk of its teacher cache; and
which of its seeds fit into a time."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kd_jax import config
from kd_jax.storage.progress import log_line
from kd_jax.tools import sweep_jobs
from kd_jax.tools.sweep import Sweep, describe
from kd_jax.tools.sweep_shared import Job
from kd_jax.train.dry_run import dry_run as dry_run_of
from kd_jax.train.dry_run import hours
from kd_jax.train.run import load_data
from kd_jax.typing import InputError


class Cost(NamedTuple):
    """Seconds of a run: of its training steps, and until its phases take their first ones."""

    training: float
    start: float


def dry_run(sweep: Sweep, train: Path, shard: tuple[int, int], minutes: float | None = None) -> None:
    """Print the runs of a sweep, the dry run of the first cell of every kind, and the hours of all. Writes nothing.

    Args:
      sweep, train: see `sweep.run`.
      shard: (index, count).
      minutes: if given, the seeds that fit into them are named too.
    """
    for line in describe(sweep, train, shard):
        log_line(line)
    costs = costs_of(sweep, sweep.shard(*shard))
    total = hours(sum(cost.training for cost in costs.values()))
    log_line(f"\nall together: about {total} of training steps on this machine, one run after the other")
    if minutes is not None and costs:
        log_line(f"into {minutes:g} min fit {fitting(seconds_of(sweep, costs), 60 * minutes)}")


def costs_of(sweep: Sweep, jobs: Iterable[Job]) -> dict[str, Cost]:
    """Folder -> what a run costs, of those that are not done, by a dry run of the first of every kind. Writes nothing.

    Two runs are of one kind if their config file, their data and the networks of their phases are the same: then a
    step takes equally long, but for what the settings change. A run that has begun counts in full.
    """
    measured, costs = {}, {}
    for job in jobs:
        if sweep_jobs.is_done(sweep.home, job):
            continue
        cell = job.cell
        kind = (
            cell.config,
            str(cell.tree["data"]),
            *((name, cell.tree[name]["model"]) for name in cell.tree["phases"]),
        )
        if kind not in measured:
            log_line(f"\n{cell.folder}:")
            examples, began = len(load_data(config.parse(cell.tree)).train), time.monotonic()
            steps = dry_run_of(cell.tree, str(sweep.home / cell.folder))
            measured[kind] = (examples, steps, time.monotonic() - began)
        examples, seconds, start = measured[kind]
        phases = (phase for phase in config.parse(cell.tree).phases if phase.name in job.phases)
        training = sum(seconds.get(phase.name, 0.0) * _steps(phase, examples) for phase in phases)
        costs[job.folder] = Cost(training, start * len(job.phases) / len(cell.tree["phases"]))
    return costs


def _steps(phase: config.Phase, examples: int) -> int:
    return phase.steps or int(phase.epochs * (examples // phase.batch_size))


def seconds_of(sweep: Sweep, costs: Mapping[str, Cost]) -> dict[int, float]:
    """Seed -> what its runs take that are not done, one after the other; of seeds that have any. costs: of these."""
    seconds = {}
    for job in sweep.shard(0, 1):
        if job.folder in costs:
            seconds[job.cell.seed] = seconds.get(job.cell.seed, 0.0) + sum(costs[job.folder])
    return seconds


def fitting(seconds: Mapping[int, float], limit: float) -> str:
    """The first seeds of a sweep that fit into a time, in words: whole ones, so that the cells stay paired.

    Args:
      seconds: seed -> what its runs take, in order; not empty.
      limit: seconds.

    Raises:
      InputError: not one fits.
    """
    total, taken, left = 0.0, [], list(seconds)
    while left and total + seconds[left[0]] <= limit:
        total += seconds[left[0]]
        taken.append(left.pop(0))
    if not taken:
        takes = f"the runs of seed {left[0]} take about {hours(seconds[left[0]])}, one after the other"
        raise InputError(f"--minutes: {takes}, but {hours(max(limit, 0))} are left after measuring; give more")
    line = f"{spelled(taken)}: about {hours(total)}, one run after the other"
    more = f"; left out: {spelled(left)}, about {hours(seconds[left[0]])} for the first" if left else ""
    return line + more


def spelled(seeds: list[int]) -> str:
    """Seeds that follow each other, in words."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
