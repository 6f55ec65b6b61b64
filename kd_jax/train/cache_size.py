"""What a teacher cache takes and saves, said before a run starts."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from etils import epath

from kd_jax import config
from kd_jax.plan import PhasePlan
from kd_jax.storage.workdir import resolve_path
from kd_jax.train.batches import Resident, Streamed
from kd_jax.typing import InputError

PAGE = 4096  # bytes of a disk that a single row takes at most besides its own
WORTH = 0.8  # a cache that leaves the teacher more of its work than that is not mentioned


def cache_lines(recipe: config.Recipe, plans: Iterable[PhasePlan], source: Resident | Streamed) -> list[str]:
    """What a run should say of its teacher cache: what it will take; or, where it has none, what one would save.

    Args:
      recipe: of the run.
      plans: of the phases that are not done.
      source: of the batches.

    Raises:
      InputError: the disk is too small.
    """
    plans = list(plans)
    phases = [plan for plan in plans if plan.cacheable_teachers]
    live = [plan for plan in plans if plan.needs_teachers and plan.why_not_cached] if recipe.teacher_cache else []
    lines = [f"{plan.name}: its teachers run at every step: {plan.why_not_cached}" for plan in live]
    if not phases:
        return lines
    seats = defaultdict(list)  # of one store, those of the phases that share it: their steps in epochs
    for plan in phases:
        for seat in plan.cacheable_teachers:
            store = (plan.teachers[seat].origin, plan.phase.batch_size, plan.network.num_classes)
            seats[store].append(plan.steps / plan.steps_per_epoch)
    size = sum(store_size(recipe, source, classes, max(epochs)) for (*_, classes), epochs in seats.items())
    if recipe.teacher_cache:
        return [_room(recipe, source, size, len(seats)), *lines]
    computed = sum(distinct_views(source.num_views, max(epochs)) for epochs in seats.values())
    share = computed / sum(map(sum, seats.values()))
    if share > WORTH:
        return []
    names = ", ".join(plan.name for plan in phases)
    return [
        f"note: {names}: with --config.teacher_cache=DIR (up to {readable(size)}) teachers would run on {share:.0%} of "
        "the images that they run on now, and on none in another run with the same data seed"
    ]


def distinct_views(views: int, epochs: float) -> float:
    """How many of its views an image is expected to be seen in."""
    return min(epochs, 1) if views == 1 else views * (1 - (1 - 1 / views) ** epochs)


def store_size(recipe: config.Recipe, source: Resident | Streamed, classes: int, epochs: float) -> int:
    """The most bytes that a store takes on the disk: all of its rows; or less, where few of them will be there."""
    record = classes * np.dtype(recipe.teacher_cache_dtype).itemsize + 4
    views, train, test = source.num_views, source.sizes["train"], source.sizes["test"]
    return int(train * min(views * record, distinct_views(views, epochs) * (PAGE + record))) + test * record


def check_room(recipe: config.Recipe, size: int, taken: int) -> None:
    """Refuse a disk that is too small for a number of bytes. taken: how many of them are there.

    Raises:
      InputError: it is.
    """
    folder = resolve_path(recipe.teacher_cache)
    free = free_for(folder)
    if size - taken > free:
        smaller = "" if recipe.teacher_cache_dtype == "float16" else ", or --config.teacher_cache_dtype=float16"
        raise InputError(
            f"config.teacher_cache: {folder}: needs up to {readable(size)}, of which {readable(taken)} are there, and "
            f"{readable(free)} are free; accepted: a folder on a larger disk{smaller}"
        )


def check_writable(recipe: config.Recipe, plans: Iterable[PhasePlan]) -> None:
    """Refuse a folder that could not be written when a teacher has been trained. plans: of the phases that will run.

    Raises:
      InputError: what is there of the path is no folder, or may not be written.
    """
    if not recipe.teacher_cache or not any(plan.cacheable_teachers for plan in plans):
        return
    folder = there = resolve_path(recipe.teacher_cache)
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written" if there.is_dir() else "is not a folder"
        raise InputError(f"config.teacher_cache: {folder}: {there} {why}; accepted: a folder that can be written")


def readable(size: int) -> str:
    """A number of bytes."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _room(recipe: config.Recipe, source: Resident | Streamed, size: int, stores: int) -> str:
    """One line on what the stores of a run take. What lies in the folder counts as theirs: which of it is, is known
    when their teachers are (`kd_jax.train.teacher_cache.open_cache` asks again)."""
    folder = resolve_path(recipe.teacher_cache)
    taken, free = taken_by(folder), free_for(folder)
    check_room(recipe, size, taken)
    exact = " (not exact)" if recipe.teacher_cache_dtype == "float16" else ""
    teachers = f"{stores} teachers" if stores > 1 else "the teacher"
    return (
        f"teacher cache {folder}: up to {readable(size)} for {teachers}: {source.sizes['train']:,} images in "
        f"{source.num_views} view{'s' * (source.num_views > 1)}, {recipe.teacher_cache_dtype}{exact}; "
        f"{readable(taken)} are there, {readable(free)} are free"
    )


def taken_by(folder: epath.Path) -> int:
    """Bytes that the files below a folder take on the disk; holes take none."""
    taken = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another run has renamed it meanwhile
                taken += os.stat(os.path.join(path, name)).st_blocks * 512
    return taken


def free_for(folder: epath.Path) -> int:
    """Bytes that are free on the disk of a folder that may not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
