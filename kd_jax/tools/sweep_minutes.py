"""A sweep for which there are some minutes: as many seeds as fit, each with all cells."""

import io
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

from kd_jax.distributed.parent import STARTER
from kd_jax.storage.progress import log_line
from kd_jax.tools import environment, sweep
from kd_jax.tools.sweep import Sweep
from kd_jax.tools.sweep_cost import Cost, costs_of, fitting, seconds_of, spelled
from kd_jax.typing import InputError


def check(whole: Sweep, shard: tuple[int, int]) -> None:
    """Refuse what --minutes cannot cut.

    Raises:
      InputError: seeds that train together, or a shard.
    """
    if any(cell.count > 1 for cell in whole.cells):
        raise InputError("--minutes and --together: seeds that train as one run cannot be cut; give one of both")
    if shard[1] > 1:
        raise InputError("--minutes and --shard: shards would take different seeds; give one of both")


def run(whole: Sweep, train: Path, minutes: float, *, count: int = 1) -> bool:
    """Measure steps, and run as many seeds as fit into the time that is left, one after the other; what is done takes
    none. A seed begins only where the time is left that its runs take, by what the seeds before took in fact. When the
    time is over no run starts any more.

    Args:
      whole: the sweep with all seeds that may be taken.
      train, count: as for `sweep.run`; how long a seed takes is measured for one run after the other.
      minutes: from now on, those of measuring included.

    Returns:
      Whether no run has failed.

    Raises:
      InputError: not one seed fits.
      Interrupted: as `sweep.run`.
    """
    until = time.monotonic() + 60 * minutes
    log_line("measuring a step of every kind of run")
    seconds = seconds_of(whole, _measured(whole))
    if not seconds:
        return sweep.run(whole, train)  # which says so
    log_line(f"into the time fit {fitting(seconds, until - time.monotonic())}")
    well, left, pace = True, list(seconds), 1.0
    while left and pace * seconds[left[0]] <= until - time.monotonic():
        seed, began = left.pop(0), time.monotonic()
        well &= sweep.run(whole.of_seeds([seed]), train, count=count, until=until)
        pace = (time.monotonic() - began) / seconds[seed]
    if left:
        log_line(f"not begun: {spelled(left)}; the same command goes on with them")
    return well


def _measured(whole: Sweep) -> dict[str, Cost]:
    """In a process of its own, which gives the devices back to the runs, and which ends with this one."""
    os.environ[STARTER] = str(os.getpid())
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_measure, whole, time.monotonic()).result()
    finally:
        del os.environ[STARTER]


def _measure(whole: Sweep, asked: float) -> dict[str, Cost]:
    """asked: time on the monotonic clock, which all processes share, when this one was asked for."""
    environment.prepare()
    process = time.monotonic() - asked  # as long as a run's takes until it is there
    with redirect_stdout(io.StringIO()):
        costs = costs_of(whole, whole.shard(0, 1))
    return {folder: cost._replace(start=cost.start + process) for folder, cost in costs.items()}
