"""What can be done with a teacher cache beside training with it: fill, verify, describe, prune."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from etils import epath

from kd_jax import config
from kd_jax.distributed import preemption
from kd_jax.distributed.mesh import Layout
from kd_jax.plan import PhasePlan, build
from kd_jax.storage.logit_rows import LogitRows, headers
from kd_jax.storage.progress import log_line
from kd_jax.storage.workdir import resolve_path
from kd_jax.train.batches import Resident, Streamed, batches_of
from kd_jax.train.cache_size import cache_lines, readable, taken_by
from kd_jax.train.compiled import Teachers
from kd_jax.train.inputs import load_teachers
from kd_jax.train.run import load_data
from kd_jax.train.teacher_cache import CachedTeachers, open_cache
from kd_jax.typing import InputError

EVERY = 100  # steps between lines of progress


class _Recipe(NamedTuple):
    """A recipe whose teachers are trained already."""

    recipe: config.Recipe
    plans: tuple[PhasePlan, ...]
    source: Resident | Streamed
    data_identity: dict


def fill(tree: dict, workdir: str, *, epochs: int = 0) -> None:
    """Compute what the phases of a recipe will read of their teachers.

    Args:
      tree: the nested dict of a ConfigDict.
      workdir: of a run that has trained the teachers phase:NAME; "" where there are none.
      epochs: how many; 0 is as many as each phase has.

    Raises:
      InputError: a wrong recipe, no teacher that can be cached, a disk that is too small.
      Interrupted: SIGTERM, SIGINT or SIGHUP came; what was computed is in the cache.
    """
    opened = _open(tree, workdir)
    plans = [replace(p, steps=epochs * p.steps_per_epoch) if epochs else p for p in opened.plans]
    for line in cache_lines(opened.recipe, plans, opened.source):
        log_line(line)
    with opened.source as source, preemption.stop_on_signal() as stop:
        for plan in plans:
            cache = _cache(opened, plan)
            for seat, store in cache.stores.items():
                name = f"{plan.name}: {plan.teachers[seat].origin}"
                for batch in source.test(plan.phase.batch_size) if plan.measures_teachers else ():
                    store.test(batch)
                for step in range(plan.steps):
                    store.fill(step)
                    signal = stop(step + 1)
                    if signal is not None:
                        raise preemption.Interrupted(signal, f"{name}, step {step + 1} of {plan.steps}")
                    if (step + 1) % EVERY == 0:
                        log_line(
                            f"{name}: step {step + 1:,} of {plan.steps:,}, {store.counts['misses']:,} rows computed"
                        )
                counts = store.counts
                log_line(f"{name}: {counts['misses']:,} rows computed, {counts['hits']:,} were there: {store.folder}")
            cache.close()


def verify(tree: dict, workdir: str, *, sample: int) -> bool:
    """Compare rows of the training set, drawn at random, with what the teachers say now. Arguments and errors as for
    `fill`.

    Args:
      tree, workdir: as for `fill`.
      sample: how many of every teacher.

    Returns:
      Whether all of them are the same, bit by bit.
    """
    opened, same = _open(tree, workdir), True
    with opened.source:
        for plan in opened.plans:
            cache = _cache(opened, plan)
            for seat, store in cache.stores.items():
                there = np.concatenate([numbers for numbers, _ in store.rows.scan()])
                drawn = np.random.default_rng().permutation(there)[:sample]
                parts = np.split(drawn, range(plan.phase.batch_size, len(drawn), plan.phase.batch_size))
                equal = sum(store.count_equal(part) for part in parts)
                log_line(f"{plan.name}: {plan.teachers[seat].origin}: {equal:,} of {len(drawn):,} rows are the same")
                same &= equal == len(drawn)
            cache.close()
    return same


def info(tree: dict) -> None:
    """Print what is in the cache of a recipe. Every row is read.

    Raises:
      InputError: no such folder.
    """
    for path, header in headers(_folder(tree["teacher_cache"])).items():
        if header is None:
            log_line(f"{path}: header.json is damaged; a run that needs the store writes it again")
            continue
        key, teacher = header["key"], header["teacher"]
        log_line(f"{path}: {teacher['name']} (digest {teacher['digest'][:12]}...), {key['dtype']}, {key['views']}")
        for name, count in header["rows"].items():
            rows = LogitRows(path, name, key=key, count=count, columns=header["columns"])
            parts = [(len(numbers), damaged) for numbers, damaged in rows.scan()]
            there, damaged = (sum(part) for part in zip(*parts, strict=True))
            bad = f", {damaged:,} damaged (they are computed again)" if damaged else ""
            log_line(f"  {name}: {there:,} of {count:,} rows, {readable(rows.bytes)}{bad}")
            rows.close()


def prune(tree: dict, workdir: str) -> None:
    """Delete the stores of teachers that the recipe does not name. Arguments and errors as for `fill`."""
    opened = _open(tree, workdir)
    digests = {digest for plan in opened.plans for digest in load_teachers(plan)[1]}
    freed = 0
    for path, header in headers(_folder(tree["teacher_cache"])).items():
        if header and header["teacher"]["digest"] not in digests:
            freed += taken_by(path)
            path.rmtree()
            log_line(f"{path}: deleted ({header['teacher']['name']})")
    log_line(f"{readable(freed)} freed")


def _folder(named: str) -> epath.Path:
    """The folder of the cache."""
    if not named:
        raise InputError("config.teacher_cache: empty; name the folder of the cache")
    return resolve_path(named)


def _open(tree: dict, workdir: str) -> _Recipe:
    _folder(tree["teacher_cache"])
    recipe = config.parse(tree)
    home, layout = resolve_path(workdir or recipe.teacher_cache), Layout(recipe.parallel.mesh, recipe.parallel.scope)
    dataset = load_data(recipe)
    plans = tuple(plan for plan in build(recipe, dataset, home, layout) if plan.cacheable_teachers)
    if not plans:
        raise InputError("config.teacher_cache: no phase of the recipe has a teacher that can be cached")
    for plan in plans:
        _check_trained(plan, workdir, home)
    return _Recipe(recipe, plans, batches_of(recipe, layout, dataset), dataset.identity)


def _check_trained(plan: PhasePlan, workdir: str, home: epath.Path) -> None:
    """Refuse a teacher that a run has yet to train."""
    for teacher in plan.teachers:
        kind, _, where = teacher.origin.partition(":")
        if kind == "phase" and not (workdir and (home / where.partition("/")[0] / "DONE").exists()):
            raise InputError(
                f"config.{plan.name}.teacher: {teacher.origin} is not trained"
                + (f" in {workdir}" if workdir else "; --workdir=DIR names a run that has trained it")
            )


def _cache(opened: _Recipe, plan: PhasePlan) -> CachedTeachers:
    teachers, digests = load_teachers(plan)
    teach = Teachers(plan.layout, tuple(t.network for t in plan.teachers), plan.distiller.needs)
    return open_cache(opened.recipe, plan, teach, teachers, digests, opened.source, opened.data_identity)
