"""The cells of a sweep: what is changed in each, checked before anything trains."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from kd_jax import config
from kd_jax.config import error_in
from kd_jax.config.overrides import OVERRIDE
from kd_jax.plan.distiller import members_of
from kd_jax.plan.optimizers import check_optim
from kd_jax.storage.workdir import difference
from kd_jax.tools import sweep_values
from kd_jax.tools.config_file import load, load_module
from kd_jax.typing import InputError, suggest

# keys that say what a sweep is made of, and what sets them
TAKEN = {"phases": "a sweep has the phases of its config", "seed": "--seeds=N and --first_seed=S", "seeds": "--seeds=N"}
LONGEST = 200  # characters of a folder's name
PLAIN = " =:+@()[],._-'\"!"  # stand in a folder's name as they are


class Cell(NamedTuple):
    """One run of a sweep.

    name: of the folder that its seeds share. settings: key -> value, as a command line spells it. seed: the first, of
    `count` that train together. config: FILE.py[:ARGUMENT]. flags: --config.KEY=VALUE of the run. tree: its resolved
    configuration.
    """

    name: str
    settings: dict[str, str]
    seed: int
    config: str
    flags: tuple[str, ...]
    tree: dict
    count: int = 1

    @property
    def seeds(self) -> range:
        """Of the run."""
        return range(self.seed, self.seed + self.count)

    @property
    def folder(self) -> str:
        """Below that of the sweep."""
        seeds = f"seeds={self.seed}-{self.seeds[-1]}" if self.count > 1 else f"seed={self.seed}"
        return f"{self.name}/{seeds}"


class Variant(NamedTuple):
    """What the seeds of a cell have in common."""

    name: str
    settings: dict[str, str]
    config: str


def of_grids(spelled: str, grids: Iterable[str], where: str = "--grid") -> list[Variant]:
    """Every combination of the values of some keys; without any, the config as it is.

    Args:
      spelled: FILE.py[:ARGUMENT].
      grids: KEY=V1,V2,... each; commas inside brackets or quotes belong to a value.
      where: the flag that they are of.

    Raises:
      InputError: not of that form, no value, a key twice, a key that a sweep sets itself.
    """
    axes: dict[str, list[str]] = {}
    for grid in grids:
        key, equals, text = grid.partition("=")
        key = key.strip().removeprefix("config.")
        values = sweep_values.split(text)
        if not (key and equals and values):
            raise InputError(f"{where} {grid}: must be KEY=V1,V2,... with one value at least")
        if key in axes:
            raise InputError(f"{where} {grid}: {key} has a grid already")
        axes[key] = values
    cells = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    return [Variant(_name(settings) or _stem(spelled), settings, spelled) for settings in cells]


def of_file(spelled: str) -> tuple[list[Variant], dict[str, Any]]:
    """A sweep that is written as data: a file with CONFIG, a config file, and sweep(), which yields a dict for each
    variant: key -> value, and perhaps "name" and another "config".

    Args:
      spelled: FILE.py[:ARGUMENT]; the argument is added to that of each config.

    Returns:
      The variants, and what else the file says: "seeds" and "baseline", where it has SEEDS and BASELINE.

    Raises:
      InputError: no such file, or not of that form; what it raises itself, with the line.
    """
    path, _, argument = spelled.partition(":")
    if not os.path.isfile(path):
        raise InputError(f"--sweep: no file {path}; --list names those that there are")
    try:
        module = load_module(path)
        rows = [dict(row) for row in module.sweep()]
        configs = [row.pop("config", None) or module.CONFIG for row in rows]
    except InputError:
        raise
    except (Exception, SystemExit) as e:
        raise InputError(f"--sweep: {error_in(path, e)}") from e
    more = {name: getattr(module, name.upper()) for name in ("seeds", "baseline") if hasattr(module, name.upper())}
    _check_file(path, more)
    variants = []
    for row, file in zip(rows, configs, strict=True):
        name, file = row.pop("name", None), os.fspath(file) if isinstance(file, os.PathLike) else file
        for what, value in (("name", name or ""), ("config", file)):
            if not isinstance(value, str):
                raise InputError(f"--sweep: {path}: the {what} of a cell must be a text, got {value!r}")
        settings = {key: sweep_values.spelled(value) for key, value in row.items()}
        if argument:
            file += ("," if ":" in file else ":") + argument
        variants.append(Variant(name or _name(settings) or _stem(file), settings, file))
    if not variants:
        raise InputError(f"--sweep: sweep() of {path} yields nothing")
    return variants, more


def _check_file(path: str, more: Mapping[str, Any]) -> None:
    """Refuse SEEDS and BASELINE of a file that are none."""
    seeds, baseline = more.get("seeds", 1), more.get("baseline", "")
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise InputError(f"--sweep: {path}: SEEDS must be a whole number from 1 on, got {seeds!r}")
    if not isinstance(baseline, str):
        raise InputError(f"--sweep: {path}: BASELINE must be the name of a cell, got {baseline!r}")


def check_changes(changes: Iterable[str], variants: Sequence[Variant]) -> list[str]:
    """Refuse --config.KEY=VALUE that changes no cell, for all of them set the key themselves.

    Returns:
      Lines on the keys that some cells set themselves.

    Raises:
      InputError: the seed, or a key that every cell sets.
    """
    keys, notes = dict.fromkeys(match[2] for match in map(OVERRIDE.fullmatch, changes) if match), []
    if "seed" in keys:
        raise InputError(f"--config.seed: every run of a sweep has its own; {TAKEN['seed']} set them")
    for key in keys:
        setting = [variant.name for variant in variants if key in variant.settings]
        if len(setting) == len(variants):
            raise InputError(f"--config.{key}: has a grid already, or every cell sets it; leave it out")
        if setting:
            notes.append(f"note: --config.{key} does not reach the cells that set it themselves: {'; '.join(setting)}")
    return notes


def cells_of(
    variants: Iterable[Variant], changes: tuple[str, ...], seeds: int, *, first: int = 0, together: bool = False
) -> list[Cell]:
    """The runs of some variants with some seeds, checked as far as their configuration goes: keys, values, and what
    methods and optimisers take; not whether they fit the networks and the data.

    Args:
      changes: --config.KEY=VALUE that all have.
      seeds: how many. first: the lowest; the others follow it.
      together: whether the seeds of a variant are one run.

    Raises:
      InputError: a wrong key or value; two variants with one name, or that are the same run.
    """
    cells, named = [], {}
    for variant in variants:
        name = _folder_name(variant.name)
        if name in named:
            raise InputError(f"two cells are named {name}")
        trees, count = [], seeds if together else 1
        with _named(variant.name):
            for seed in range(first, first + seeds, count):
                flags = (*changes, *(f"--config.{k}={v}" for k, v in variant.settings.items()), f"--config.seed={seed}")
                trees.append(_tree(variant, flags))
                if count > 1:
                    flags = (*flags, f"--config.seeds={count}")
                    trees[-1] = _tree(variant, flags, count)
                cells.append(Cell(name, variant.settings, seed, variant.config, flags, trees[-1], count))
            _check_phases(trees[0])
        for other, tree in named.items():
            if difference(tree, trees[0]) is None:
                raise InputError(f"the cells {other} and {name} are the same run")
        named[name] = trees[0]
    return cells


def _tree(variant: Variant, flags: tuple[str, ...], seeds: int = 1) -> dict:
    """The configuration of a cell, as JSON has it. seeds: as many as it has to ask for."""
    for key in variant.settings:
        if key.partition("[")[0] in TAKEN:
            raise InputError(f"config.{key}: cannot differ between cells; {TAKEN[key.partition('[')[0]]}")
    config_dict = load(variant.config)
    config_dict.lock()
    config.override(config_dict, list(flags))
    tree = config_dict.to_dict()
    recipe = config.parse(tree)
    if recipe.seeds != seeds:
        raise InputError(f"config.seeds: must be 1 in a sweep, got {recipe.seeds}; {TAKEN['seeds']}")
    return json.loads(json.dumps(tree))


def _check_phases(tree: dict) -> None:
    """Make the methods of a cell, and ask its optimisers, for what they refuse."""
    for phase in config.parse(tree).phases:
        members_of(phase, steps_per_epoch=1)
        check_optim(phase)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What is refused is said with a variant's name."""
    try:
        yield
    except InputError as e:
        raise InputError(f"{name}: {e}") from e


def _name(settings: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in settings.items())


def _stem(spelled: str) -> str:
    """The name of a config file."""
    return Path(spelled.partition(":")[0]).stem


def _folder_name(name: str) -> str:
    """A name in which nothing stands that a file system, or a path that is read as a pattern, would misread."""
    spelled = quote(name, safe=PLAIN)
    if not spelled.strip(". ") or len(spelled) > LONGEST:
        raise InputError(
            f"{name[:60]!r}: no name of a cell; 1 to {LONGEST} characters wanted, and --sweep=FILE can name cells"
        )
    return spelled


def list_sweeps(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and first line of every sweep that is written as data."""
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            doc = load_module(str(path)).__doc__ or ""
            yield path.stem, doc.strip().partition("\n")[0]


def find(cells: Iterable[Cell], named: str) -> str:
    """The name of the cell that a user calls so: as it was given, or as its folder spells it.

    Raises:
      InputError: none is named so.
    """
    names = {unquote(cell.name): cell.name for cell in cells}
    if named in names.values():
        return named
    if named not in names:
        raise InputError(f"--baseline={named}: no cell is named so; {suggest(named, names)}")
    return names[named]
