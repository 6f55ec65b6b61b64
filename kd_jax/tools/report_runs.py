"""The results that lie in some folders: of sweeps, with what is missing, and of single runs."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from kd_jax import recipes
from kd_jax.storage.files import read_json
from kd_jax.storage.metrics_log import MetricsLog
from kd_jax.storage.workdir import NON_IDENTITY_KEYS, flatten, is_below, read_summary
from kd_jax.tools.sweep import RECORD, read_record
from kd_jax.tools.sweep_jobs import OUTPUT, printed_error
from kd_jax.tools.sweep_shared import FOLDER, last_phases
from kd_jax.typing import InputError

FREE = (*NON_IDENTITY_KEYS, "name", "phases", "seed", "seeds", "data.seed", "teacher_cache_dtype")
KEYS = {"name", "seed", "phases"}  # of every config.json of ours
PLACE = "place"  # a setting of runs that have name and seed in common: where they lie


class Run(NamedTuple):
    """A phase of a run, with one seed.

    name: of the cell, or of the folder. settings: key -> value, of what differs between the runs; "phase" too, and
    PLACE. state: "done", or what else is the matter. figures: of summary.json, where it is done. summary: all of it.
    rows: of metrics.jsonl, of the phase. command: that trains it, "" if it is not recorded. home: the folder of its
    sweep; of a run of none the one that was given. link: where a sweep has trained the phase once for several cells,
    else "".
    """

    name: str
    settings: dict[str, str]
    seed: int
    phase: str
    state: str
    figures: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict]
    folder: Path
    command: str
    home: Path
    link: str = ""

    @property
    def headline(self) -> str:
        """The name of the figure that stands for the result."""
        return next(key for key in self.figures if key.endswith("_last")).removesuffix("_last")


class Collection(NamedTuple):
    """All runs below some folders. baseline: what a sweep names so, or "". keys: of the settings, in their order."""

    runs: list[Run]
    baseline: str
    keys: list[str]


def find(folders: Iterable[str]) -> Collection:
    """Read the runs below some folders.

    Args:
      folders: of sweeps or of runs; or above them.

    Raises:
      InputError: no such folder; no run in it.
    """
    entries: dict[Path, tuple[Path, Path, dict | None]] = {}  # by their folder: what is given twice is read once
    baseline = ""
    for folder in (Path(os.path.expanduser(folder)) for folder in folders):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        empty = True
        for home, names, files in os.walk(folder, followlinks=False):
            names[:] = sorted(name for name in names if name != "checkpoints")
            if RECORD in files:
                record = read_record(Path(home) / RECORD)
                baseline = baseline or record["baseline"]
                there = [(Path(home), Path(home) / cell["folder"], cell) for cell in record["cells"]]
                names.clear()
            elif "config.json" in files and Path(home).parent.name != FOLDER and _is_run(Path(home)):
                there = [(folder, Path(home), None)]
            else:
                continue
            empty = empty and not there
            for entry in there:
                place = entry[1].resolve()
                if place not in entries or entries[place][2] is None:
                    entries[place] = entry
        if empty:
            raise InputError(f"{folder}: no run in it; a run has a config.json, a sweep a {RECORD}")
    runs = [run for entry in entries.values() for run in _runs_in(*entry)]
    runs = _with_phases(_apart(_once(_named(runs))))
    return Collection(runs, baseline, list(dict.fromkeys(key for run in runs for key in run.settings)))


def _is_run(home: Path) -> bool:
    """Whether a folder's config.json is of ours, and not of another tool."""
    try:
        tree = json.loads((home / "config.json").read_text())
    except ValueError as e:
        raise InputError(f"{home / 'config.json'}: is damaged; it is no JSON") from e
    return isinstance(tree, dict) and tree.keys() >= KEYS


def _runs_in(sweep: Path, home: Path, cell: dict | None) -> list[Run]:
    """The phases of a run that stand for results: those that teach no other, each with every seed. A phase that a run
    without a result links is read where it was trained.

    Args:
      sweep: see `Run.home`. home: folder of the run. cell: as the sweep has recorded it.
    """
    tree, summary, damage = _documents(home)
    if damage and not cell:
        raise InputError(damage)
    name, given = (cell["name"], cell["settings"]) if cell else ("", {})
    seeds, command = (cell["seeds"], cell["command"]) if cell else ([tree["seed"]], "")
    links = cell.get("links", {}) if cell else {}
    runs = []
    if not summary:
        state = f"damaged: {damage}" if damage else _state(home, bool(tree))
        about = (state, {}, {"config": tree}, [], home, command, sweep)
        for phase in last_phases(tree) if tree else cell.get("phases", ["student"]):
            link = links.get(phase, "")
            if link and (sweep / link / "config.json").exists():
                runs += [run._replace(link=link) for run in _runs_in(sweep, sweep / link, {**cell, "links": {}})]
            else:
                runs += [Run(name, given, seed, phase, *about, link) for seed in seeds]
        return runs
    rows = MetricsLog(epath.Path(home / "metrics.jsonl")).rows
    for phase in last_phases(tree):
        figures, link = summary["phases"][phase], links.get(phase, "")
        for one in figures.get("seeds", [{"seed": seeds[0]}]):
            seed = one["seed"]
            its_rows = [row for row in rows if row["phase"] == phase and row.get("seed", seed) == seed]
            about = ("done", {**figures, **one}, summary, its_rows, home, command, sweep, link)
            runs.append(Run(name, given, seed, phase, *about))
    return runs


def _documents(home: Path) -> tuple[dict, dict, str]:
    """config.json and summary.json of a run, {} for one that is not there, and what is damaged, or ""."""
    tree: dict = {}
    try:
        tree = _configuration(home / "config.json")
        return tree, read_summary(home, tree and last_phases(tree)) if (home / "summary.json").exists() else {}, ""
    except InputError as e:
        return tree, {}, str(e)


def _configuration(written: Path) -> dict:
    """The content of a config.json, {} where there is none."""
    if not written.exists():
        return {}
    tree = read_json(written)
    if not tree.keys() >= KEYS:
        raise InputError(f"{written}: is no configuration of a run")
    return tree


def _state(home: Path, begun: bool) -> str:
    error = printed_error(home / OUTPUT)
    if error and not error.startswith("stopped by"):
        return f"failed: {error}"
    return "unfinished" if begun else "missing"


def _named(runs: list[Run]) -> list[Run]:
    """Runs of no sweep get a name and settings: their recipe, and the keys in which those of one recipe differ."""
    recipes_of: dict[str, dict[Path, dict]] = {}
    for run in runs:
        if not run.name:
            tree = run.summary["config"]
            recipes_of.setdefault(tree["name"], {})[run.folder] = flatten(recipes.completed(tree))
    named_as = {}
    for recipe, trees in recipes_of.items():
        keys = [key for key in dict.fromkeys(key for tree in trees.values() for key in tree) if not is_below(key, FREE)]
        keys = [key for key in keys if len({json.dumps(tree.get(key)) for tree in trees.values()}) > 1]
        for folder, tree in trees.items():
            settings = {key: _spelled(tree.get(key)) for key in keys}
            name = ",".join([recipe, *(f"{key}={value}" for key, value in settings.items())])
            named_as[folder] = (name, {"recipe": recipe} | settings if len(recipes_of) > 1 else settings)
    return [
        run if run.name else run._replace(name=named_as[run.folder][0], settings=named_as[run.folder][1])
        for run in runs
    ]


def _apart(runs: list[Run]) -> list[Run]:
    """Runs that have name and seed in common are told apart by where they lie. All runs of a row are: those of several
    sweeps by the sweep's folder, seeds that train together by the folder of the run."""
    names = {group[0].name for group in _alike(runs) if len({run.home for run in group}) > 1}
    runs = [_placed(run, run.home) if run.name in names else run for run in runs]
    counts, folders = Counter((run.folder, run.phase) for run in runs), set()
    for group in _alike(runs):
        together = {run.folder for run in group if counts[run.folder, run.phase] > 1}
        folders |= together or {run.folder for run in group}
    return [_placed(run, run.folder) if run.folder in folders else run for run in runs]


def _alike(runs: list[Run]) -> list[list[Run]]:
    """Several runs of one name, phase, place and seed."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.name, run.phase, run.settings.get(PLACE), run.seed), []).append(run)
    return [group for group in groups.values() if len(group) > 1]


def _placed(run: Run, place: Path) -> Run:
    return run._replace(settings={**run.settings, PLACE: str(place)})


def _once(runs: list[Run]) -> list[Run]:
    """A phase that cells share is one run, with the settings that these cells have in common."""
    shared: dict[tuple, list[Run]] = {}
    for i, run in enumerate(runs):
        shared.setdefault((run.home, run.link, run.seed) if run.link else (i,), []).append(run)
    merged = []
    for group in shared.values():
        first = next((run for run in group if run.state == "done"), group[0])
        common = {k: v for k, v in first.settings.items() if all(run.settings.get(k) == v for run in group)}
        same = all(run.name == first.name for run in group)
        name = first.name if same else ",".join(f"{key}={value}" for key, value in common.items())
        merged.append(first._replace(name=name, settings=common))
    return merged


def _with_phases(runs: list[Run]) -> list[Run]:
    """The phase is a setting where there are several."""
    several = len({run.phase for run in runs}) > 1
    return [run._replace(settings={**run.settings, "phase": run.phase}) if several else run for run in runs]


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else str(tuple(value) if isinstance(value, list) else value)


def notes_on(runs: list[Run]) -> list[str]:
    """Lines on what makes the runs of a table less than comparable: other code, versions, data, devices or teachers."""
    done = [run for run in runs if run.state == "done"]
    ways = {
        "versions of the code": lambda s: (
            (s["code"] or {}).get("revision", "not under git")[:12]
            + (" with changes" if (s["code"] or {}).get("modified") else "")
        ),
        "versions of jax": lambda s: s["versions"]["jax"],
        "kinds of device": lambda s: s["device"]["kind"],
        "data sets": lambda s: s["data"] + (f" {s['data_digest'][:12]}" if _of_all_seeds(s) else ""),
    }
    lines = []
    for what, of in ways.items():
        values = list(dict.fromkeys(of(run.summary) for run in done))
        if len(values) > 1:
            lines.append(f"note: the rows are of {len(values)} {what}: {', '.join(values)}")
    teachers = ((run.seed, (run.figures.get("teacher") or {}).get("digest")) for run in done)
    drawn = ((run.seed, run.summary.get("data_digest")) for run in done if not _of_all_seeds(run.summary))
    return lines + _by_seed("teachers", teachers) + _by_seed("training sets", drawn)


def _of_all_seeds(summary: dict) -> bool:
    """Whether a digest says what data these are: each seed draws a subset of its own."""
    return bool(summary.get("data_digest")) and not summary["config"]["data"].get("subset")


def _by_seed(what: str, digests: Iterable[tuple[int, str | None]]) -> list[str]:
    by_seed: dict[int, set[str]] = {}
    for seed, digest in digests:
        by_seed.setdefault(seed, set()).update({digest} - {None})
    several = [(seed, len(there)) for seed, there in by_seed.items() if len(there) > 1]
    return [f"note: with seed {seed} the rows have {count} different {what}" for seed, count in several[:1]]
