"""Phases that several runs of a sweep have in common: each is trained once, in a run of its own that the others link.

Two runs have a phase in common where it trains the same network: its section of the configuration, those of the phases
that it takes something from, all that holds for the whole recipe, and the seed are equal. A phase that is done is
skipped, so a run that finds it in its folder goes on with the next one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from kd_jax.storage.workdir import NON_IDENTITY_KEYS, flatten, is_below, is_phase
from kd_jax.tools.sweep_cells import Cell

FOLDER = "shared"


class Job(NamedTuple):
    """A run of a sweep: a cell, or a phase that cells share.

    name: for people. folder: below that of the sweep. cell: whose configuration it has, changed by flags.
    phases: that it trains. links: phase -> folder, below that of the sweep, of the run that has trained it.
    """

    name: str
    folder: str
    cell: Cell
    flags: tuple[str, ...]
    phases: tuple[str, ...]
    links: dict[str, str]

    @property
    def needs(self) -> frozenset[str]:
        """Folders of the jobs that have to be done before."""
        return frozenset(self.links.values())


def jobs_of(cells: Iterable[Cell], teacher_seed: int | None = None) -> tuple[list[Job], list[Job]]:
    """The jobs of phases that are shared, each behind those that it needs, and the jobs of the cells.

    Args:
      cells: of the whole sweep, all its shards.
      teacher_seed: seed of every teacher; None: that of the cell.
    """
    cells = list(cells)
    keys = {cell.folder: {name: _key(cell, name, teacher_seed) for name in cell.tree["phases"]} for cell in cells}
    counts = Counter(key for of_cell in keys.values() for key in of_cell.values())
    shared: dict[str, Job] = {}
    last = []
    for cell in cells:
        links = {}
        for name, key in keys[cell.folder].items():
            if counts[key] < 2 and not (teacher_seed is not None and _is_teacher(cell.tree, name)):
                continue
            links[name] = folder = f"{FOLDER}/{name}-{key}"
            if folder not in shared:
                shared[folder] = _shared_job(cell, name, folder, links, teacher_seed)
        phases = tuple(name for name in cell.tree["phases"] if name not in links)
        last.append(Job(cell.folder, cell.folder, cell, cell.flags, phases, links))
    return list(shared.values()), last


def _shared_job(cell: Cell, name: str, folder: str, links: dict[str, str], teacher_seed: int | None) -> Job:
    before = _upstream(cell.tree, name)[:-1]
    phases = ",".join([*before, name])
    seed = _seed(cell, name, teacher_seed)
    # the name of the recipe is that of whoever comes first: here it is always the same
    flags = (*cell.flags, f"--config.seed={seed}", f"--config.phases={phases}", f"--config.name={name}")
    if not _learns(cell.tree, [*before, name]):
        flags = (*flags, "--config.seeds=1")
    return Job(f"{name} (seed {seed})", folder, cell, flags, (name,), {phase: links[phase] for phase in before})


def _key(cell: Cell, name: str, teacher_seed: int | None) -> str:
    """What is equal where a phase is the same in two cells."""
    tree = cell.tree
    sections = [(each, _seed(cell, each, teacher_seed), tree[each]) for each in _upstream(tree, name)]
    free = (*NON_IDENTITY_KEYS, "name", "phases", "seed")
    whole = {
        key: value
        for key, value in flatten({k: v for k, v in tree.items() if not is_phase(v)}).items()
        if not is_below(key, free)
    }
    if not _learns(tree, _upstream(tree, name)):
        whole["seeds"] = 1  # several seeds share the pass of a teacher: without one there is one
    whole["data.seed"] = tree["seed"] if tree["data"]["seed"] is None else tree["data"]["seed"]
    if teacher_seed is not None and _is_teacher(tree, name) and tree["data"]["seed"] is None:
        whole["data.seed"] = teacher_seed
    text = json.dumps([whole, sections], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _seed(cell: Cell, name: str, teacher_seed: int | None) -> int:
    return teacher_seed if teacher_seed is not None and _is_teacher(cell.tree, name) else cell.seed


def _learns(tree: dict, phases: list[str]) -> bool:
    """Whether one of the phases has a teacher."""
    return any(tree[name]["teacher"] for name in phases)


def sources(tree: dict, name: str) -> list[str]:
    """The phases that a phase takes something from."""
    section = tree[name]
    origins = [*section["teacher"].split(","), section["init"]["student"], section["init"]["method"]]
    return _named(origins)


def last_phases(tree: dict) -> list[str]:
    """The phases that no other rests on: what a run is there for."""
    used = {source for name in tree["phases"] for source in sources(tree, name)}
    return [name for name in tree["phases"] if name not in used]


def _named(origins: Iterable[str]) -> list[str]:
    """The phases among some origins."""
    named = (origin.strip() for origin in origins if origin.strip().startswith("phase:"))
    return [origin.removeprefix("phase:").partition("/")[0] for origin in named]


def _upstream(tree: dict, name: str) -> list[str]:
    """A phase and all that it rests on, in the order of the recipe."""
    wanted, left = {name}, [name]
    while left:
        for source in sources(tree, left.pop()):
            if source not in wanted:
                wanted.add(source)
                left.append(source)
    return [phase for phase in tree["phases"] if phase in wanted]


def _is_teacher(tree: dict, name: str) -> bool:
    """Whether a phase rests on no other, and teaches one."""
    teaches = any(name in _named(tree[phase]["teacher"].split(",")) for phase in tree["phases"])
    return teaches and not sources(tree, name)
