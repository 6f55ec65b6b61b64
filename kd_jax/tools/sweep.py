"""A sweep: every combination of some values, times seeds, a folder each. The same command again goes on."""

import math
import os
import shlex
import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kd_jax import recipes
from kd_jax.storage import files
from kd_jax.storage.progress import log_line
from kd_jax.storage.workdir import check_folder, difference, read_summary, resolve_path
from kd_jax.tools import sweep_cells, sweep_jobs
from kd_jax.tools.config_file import ConfigFlag
from kd_jax.tools.sweep_cells import Cell
from kd_jax.tools.sweep_jobs import DONE, Runner
from kd_jax.tools.sweep_shared import Job, jobs_of, last_phases
from kd_jax.typing import InputError

CACHE = "teacher_cache"  # below the sweep's folder
RECORD = "sweep.json"
RECORDED = {"name", "seeds", "settings", "folder", "command"}  # of every cell; later versions add more
ANEW = "delete it, and the same command writes it anew"


class Sweep(NamedTuple):
    """What a sweep runs. home: its folder. cells: all of them. shared: jobs of phases that cells have in common. last:
    jobs of the cells, in their order. baseline: name of the cell that others are compared with, or ""."""

    home: Path
    cells: list[Cell]
    shared: list[Job]
    last: list[Job]
    baseline: str

    def shard(self, index: int, count: int) -> list[Job]:
        """The jobs of every count-th cell, and those that they need: seed by seed, so that the cells that are done are
        paired wherever a sweep is stopped."""
        last = self.last[index::count]
        needs = {need for job in last for need in job.needs}
        return sorted([job for job in self.shared if job.folder in needs] + last, key=lambda job: job.cell.seed)

    def of_seeds(self, seeds: Collection[int]) -> "Sweep":
        """What it runs for some of its seeds, in the same folders."""
        cells = [cell for cell in self.cells if cell.seed in seeds]
        return self._replace(cells=cells, last=[job for job in self.last if job.cell.seed in seeds])


def planned(
    flag: ConfigFlag, workdir: str | None, *, grids: list[str], file: str, seeds: int, first_seed: int,
    teacher_seed: int | None, baseline: str, together: bool,
) -> Sweep:  # fmt: skip
    """The sweep that a command line asks for: see launch/sweep.py for the arguments.

    Raises:
      InputError: something in them, in a configuration or in the folder is wrong.
    """
    if not workdir:
        raise InputError("--workdir: missing; --help shows what is accepted")
    if "://" in workdir:
        raise InputError(f"--workdir={workdir}: a sweep needs a folder of this machine, or of a shared disk")
    if bool(file) == bool(flag.spelled):
        raise InputError("give --config with --grid, or --sweep=FILE, which holds both")
    if file and grids:
        raise InputError("--grid: the values stand in the file of --sweep")
    variants, more = sweep_cells.of_file(file) if file else (sweep_cells.of_grids(flag.spelled, grids), {})
    for note in sweep_cells.check_changes(flag.changes, variants):
        log_line(note)
    changes = with_cache(flag.changes, workdir)
    count = seeds or more.get("seeds", 1)
    cells = sweep_cells.cells_of(variants, changes, count, first=first_seed, together=together)
    chosen = baseline or more.get("baseline", "")
    return plan(workdir, cells, teacher_seed=teacher_seed, baseline=chosen and sweep_cells.find(cells, chosen))


def parse_shard(text: str) -> tuple[int, int]:
    """(I, N) of "I/N"; N/N is 0/N, for those who count from 1.

    Raises:
      InputError: no such text, or I is not 0 to N.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 0 < int(count) >= int(index)):
        raise InputError(f"--shard={text}: must be I/N with I from 0 to N - 1, or from 1 to N")
    return int(index) % int(count), int(count)


def plan(workdir: str, cells: Sequence[Cell], *, teacher_seed: int | None = None, baseline: str = "") -> Sweep:
    """Find the jobs of a sweep; writes nothing.

    Args:
      workdir: its folder.
      cells: see `sweep_cells.cells_of`.
      teacher_seed: seed of all teachers; None: each run's own.
      baseline: name of a cell.

    Raises:
      InputError: a file stands in the folder's place; the folder of a cell holds another run.
    """
    home = resolve_path(workdir)
    check_folder(f"--workdir={workdir}", home)
    shared, last = jobs_of(cells, teacher_seed)
    for cell in cells:
        written = home / cell.folder / "config.json"
        if written.exists():
            changed = difference(*(recipes.completed(tree) for tree in (files.read_json(written, ANEW), cell.tree)))
            if changed:
                raise InputError(f"{home / cell.folder}: holds another run: config.{changed}; name another folder")
    return Sweep(Path(home), list(cells), shared, last, baseline)


def run(sweep: Sweep, train: Path, *, count: int = 1, shard: tuple[int, int] = (0, 1), until: float = math.inf) -> bool:
    """Run what is not done yet.

    Args:
      train: the script that trains.
      count: how many runs at once.
      shard: (index, count): every count-th cell, from the index-th on.
      until: time on the monotonic clock from which on no run starts; those that run go on.

    Returns:
      Whether no run of the shard has failed.

    Raises:
      Interrupted: SIGTERM, SIGINT or SIGHUP came; the same command goes on.
    """
    jax.config.update("jax_platforms", "cpu")  # the devices are for the runs
    jobs = sweep.shard(*shard)
    sweep.home.mkdir(parents=True, exist_ok=True)
    write_record(sweep, train)
    there = sum(sweep_jobs.is_done(sweep.home, job) for job in jobs)
    log_line(f"sweep {sweep.home}: {_content(sweep, jobs)}" + (f"; {there} of these are done" if there else ""))
    ended = 0

    def say(job: Job, outcome: str) -> None:
        nonlocal ended
        ended += 1
        result = _result(sweep.home, job) if outcome == DONE else outcome
        log_line(f"[{ended}/{len(jobs)}] {job.name}: {result}{_time_left(runner, len(jobs) - ended)}")

    runner = Runner(sweep.home, train, count, say, until)
    runner.run(jobs)
    failed = [job for job in jobs if runner.outcomes.get(job.folder, DONE) != DONE]
    for job in failed:
        log_line(f"{job.folder}: {runner.outcomes[job.folder]}; all it printed: {sweep_jobs.OUTPUT} there")
    if runner.left:
        log_line(f"the time is over: {len(runner.left)} runs were not started; the same command goes on")
    elif not failed:
        log_line(f"all are done; python launch/report.py {shlex.quote(os.path.relpath(sweep.home))}")
    return not failed


def describe(sweep: Sweep, train: Path, shard: tuple[int, int] = (0, 1)) -> list[str]:
    """Lines on what a sweep would run, and what of it is there."""
    jobs, home = sweep.shard(*shard), sweep.home
    lines = [f"sweep {home}: {_content(sweep, jobs)}; their folders:"]
    for job in jobs:
        state = "done" if sweep_jobs.is_done(home, job) else "begun" if (home / job.folder).exists() else "new"
        links = f", takes {', '.join(job.links)} from {', '.join(job.links.values())}" if job.links else ""
        lines.append(f"  {job.folder}: {state}{links}")
    if not jobs:  # of a shard without cells
        return lines
    first = next((job for job in jobs if not sweep_jobs.is_done(home, job)), jobs[-1])
    return [*lines, f"the first of them: {shlex.join(sweep_jobs.command_of(home, train, first))}"]


def write_record(sweep: Sweep, train: Path) -> None:
    """sweep.json: the cells, those of earlier sweeps in the folder too; what a report reads."""
    path = sweep.home / RECORD
    before = read_record(path) if path.exists() else {"cells": [], "baseline": ""}
    commands = {job.folder: sweep_jobs.command_of(sweep.home, train, job) for job in sweep.last}
    cells: dict[str, dict[str, Any]] = {cell["folder"]: cell for cell in before["cells"]}
    for cell, job in zip(sweep.cells, sweep.last, strict=True):
        cells[cell.folder] = {
            "name": cell.name, "seeds": list(cell.seeds), "settings": cell.settings, "folder": cell.folder,
            "config": cell.config, "command": shlex.join(commands[cell.folder]), "links": job.links,
            "phases": last_phases(cell.tree),
        }  # fmt: skip
    files.write_json(
        path, {"baseline": sweep.baseline or before["baseline"], "cells": list(cells.values())}, shared=True
    )


def read_record(path: Path) -> dict[str, Any]:
    """sweep.json.

    Raises:
      InputError: it is damaged, or of another tool.
    """
    record = files.read_json(path, ANEW)
    cells = record.get("cells")
    whole = isinstance(cells, list) and all(isinstance(cell, dict) and cell.keys() >= RECORDED for cell in cells)
    if not whole or not isinstance(record.get("baseline"), str):
        raise InputError(f"{path}: is no record of a sweep; one has cells and a baseline")
    return record


def with_cache(changes: tuple[str, ...], workdir: str) -> tuple[str, ...]:
    """--config.KEY=VALUE of all cells, with one teacher cache for all where the user says nothing of it, nor of the
    steps a call, which a cache does not have. Cells that cannot use a cache run their teachers at every step."""
    named = {change.lstrip("-").partition("=")[0] for change in changes}
    optional = "--config.teacher_cache_optional=True"
    if "config.teacher_cache" in named:
        return (optional, *changes)
    if "config.steps_per_call" in named:
        return changes
    return (f"--config.teacher_cache={resolve_path(workdir) / CACHE}", optional, *changes)


def _content(sweep: Sweep, jobs: list[Job]) -> str:
    cells = [job for job in jobs if job in sweep.last]
    seeds = len({seed for cell in sweep.cells for seed in cell.seeds})
    of_all = "" if len(cells) == len(sweep.cells) else f" of {len(sweep.cells)}"
    shared = len(jobs) - len(cells)
    trained = f", and {shared} phase{'s' * (shared > 1)} that they share" if shared else ""
    names = len({cell.name for cell in sweep.cells})
    return f"{len(cells)}{of_all} runs ({names} cells, {seeds} seed{'s' * (seeds > 1)}){trained}"


def _result(home: Path, job: Job) -> str:
    """The headlines of the phases that a run has trained itself."""
    phases = read_summary(home / job.folder)["phases"]
    figures = (
        f"{name} {key.removesuffix('_last')} {row[key]:.2%}"
        for name, row in phases.items()
        if name not in job.links
        for key in [next(key for key in row if key.endswith("_last"))]
        if row[key] is not None  # without labels, of a network without a teacher
    )
    return ", ".join(figures)


def _time_left(runner: Runner, jobs: int) -> str:
    if not (jobs and runner.seconds):
        return ""
    minutes = statistics.fmean(runner.seconds) * jobs / runner.count / 60
    return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"
