"""A run's folder, and the rule that one folder holds one configuration."""

import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from etils import epath

from kd_jax.distributed import processes
from kd_jax.storage import files
from kd_jax.storage.progress import log_line
from kd_jax.typing import InputError, first_line

# a run may move to another machine, and may log or save more often: not part of its identity. Whether examples stream
# or lie in memory changes no bit either; data.crop, which needs a stream, is part of it. What only guards is free too:
# the flag that an error advises must be accepted in the same folder. Logits that are kept are those of the teacher; in
# float16 they are not, so that teacher_cache_dtype is part of it
NON_IDENTITY_KEYS = (
    "parallel.mesh", "data.dir", "data.stream", "data.workers", "log", "checkpoint", "teacher_check", "skip_nonfinite",
    "steps_per_call", "teacher_cache", "teacher_cache_optional",
)  # fmt: skip
FILES = ("config.json", "metrics.jsonl", "summary.json", "report.md", "curves.png")
FILE_ORIGINS = ("checkpoint", "weights", "logits")  # kinds of teachers and of starts that name a path
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}  # what a folder on an object store needs
SEEN = 30  # seconds until a shared file system must show every process what the first one has written


def resolve_path(path: str) -> epath.Path:
    """A folder as the user wrote it, made absolute (Orbax refuses others); gs:// and the like as is.

    Raises:
      InputError: a kind of object store that is not known, or a path under which tensorstore would write elsewhere.
    """
    scheme, on_store, _ = path.partition("://")
    if not on_store:
        absolute = os.path.abspath(os.path.expanduser(path))
        if "\\" in absolute or not absolute.isprintable():
            raise InputError(
                f"{absolute!r}: no checkpoint can be kept there; accepted: printable characters, no backslash"
            )
        return epath.Path(absolute)
    if scheme not in PACKAGES:
        raise InputError(f"{path}: unknown kind of folder; a path of this machine, or {', '.join(PACKAGES)}://...")
    return epath.Path(path)


def check_folder(named: str, path: os.PathLike) -> None:
    """Refuse what cannot be a folder, for a file stands there or above it. named: the flag with its value."""
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{named}: {'' if place == path else f'{place} '}is a file, not a folder")


def read_summary(folder: os.PathLike, phases: Iterable[str] = ()) -> dict:
    """What came out of a run that is done. phases: that must be in it.

    Raises:
      InputError: its summary is damaged, or none of a run.
    """
    path, otherwise = epath.Path(folder) / "summary.json", "delete it, and the run that is given again writes it"
    summary = files.read_json(path, otherwise)
    if not isinstance(summary.get("phases"), dict) or not {*phases} <= summary["phases"].keys():
        raise InputError(f"{path}: is no summary of a run; restore it, or {otherwise}")
    return summary


def flatten(tree: dict, at: str = "") -> dict[str, Any]:
    """Dotted key -> value; tuples as lists, as JSON has them."""
    flat = {}
    for name, value in tree.items():
        key = f"{at}.{name}" if at else name
        if isinstance(value, dict):
            flat |= flatten(value, key)
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def is_below(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of some keys, or in a section that one of them names."""
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def is_phase(section: Any) -> bool:
    """Whether an entry of a configuration is the section of a phase."""
    return isinstance(section, dict) and "model" in section


def difference(old: dict, new: dict) -> str | None:
    """The first key in which two configurations are different runs, as a phrase, or None."""
    old, new = flatten(_running(old)), flatten(_running(new))
    for key in sorted({*old, *new}):
        if not is_below(key, NON_IDENTITY_KEYS) and old.get(key) != new.get(key):
            return f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"
    return None


def _running(tree: dict) -> dict:
    """A configuration without the sections of phases that do not run."""
    idle = [key for key, value in tree.items() if is_phase(value) and key not in tree.get("phases", ())]
    return {key: value for key, value in tree.items() if key not in idle}


def _paths(tree: dict) -> Iterator[tuple[str, str]]:
    """The paths that the phases and the data of a configuration are read from, each with its key."""
    for key, value in flatten(_running(tree)).items():
        if key == "data.dir" or (key.count("."), key.rpartition(".")[2]) == (1, "weights"):
            yield key, value
        for origin in value.split(",") if isinstance(value, str) else ():
            kind, _, path = origin.strip().partition(":")
            if kind in FILE_ORIGINS:
                yield key, path


def _places(path: str) -> set[str]:
    """A path and all folders above it, as it is spelled and as links lead; the last link of each is not followed."""
    spelled = os.path.abspath(os.path.expanduser(path))
    ways = [place for way in (spelled, os.path.realpath(spelled)) for place in (Path(way), *Path(way).parents)]
    return {os.path.join(os.path.realpath(place.parent), place.name) for place in ways}


def _is_link(folder: epath.Path) -> bool:
    """Whether a folder is a link, as to a phase that another run has trained."""
    return not files.on_store(folder) and os.path.islink(folder)


class Workdir:
    """The folder of a run with the resolved configuration `tree`."""

    def __init__(self, path: str, tree: dict, complete: Callable[[dict], dict] = dict):
        """complete: gives a configuration, as an older version wrote it, the keys that it lacks."""
        self.path = resolve_path(path)
        self._tree, self._complete = tree, complete

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds another run, or an object store that cannot be reached; changes nothing. Process 0
        looks for all."""
        processes.on_main(lambda: self._check(overwrite))

    def _check(self, overwrite: bool) -> None:
        self._reach()
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir={self.path}: is a file, not a folder")
        written = self.path / "config.json"
        if overwrite:
            return self._check_cleared()
        if not written.exists():
            results = any((self.path / name).exists() for name in ("metrics.jsonl", "summary.json"))
            if results and not all(map(_is_link, self._phases())):
                raise InputError(
                    f"--workdir={self.path}: holds results of a run but no config.json; restore it, name another "
                    "folder or add --overwrite"
                )
            return  # phases alone are taken, as a user copies them, and links with their rows, as a sweep brings them
        changed = difference(self._complete(files.read_json(written)), self._complete(self._tree))
        if changed:
            raise InputError(
                f"--workdir={self.path}: holds another run: config.{changed}; name another folder or add --overwrite"
            )

    def _check_cleared(self) -> None:
        """Refuse to delete what the configuration reads."""
        for folder in self._phases():
            for key, path in _paths(self._tree):
                if path and os.path.join(os.path.realpath(self.path), folder.name) in _places(path):
                    raise InputError(
                        f"config.{key}: {path} lies in {folder}, which --overwrite deletes; move it or name another "
                        "--workdir"
                    )

    def _phases(self) -> list[epath.Path]:
        """The folders, or links to such, of the phases that this run or the one that is there trains."""
        trees, written = [self._tree], self.path / "config.json"
        with suppress(InputError):  # not readable: it names no phases
            trees += [files.read_json(written)] if written.exists() else []
        names = {key for tree in trees for key, value in _running(tree).items() if is_phase(value)}
        folders = [folder for folder in self.path.iterdir() if folder.name in names] if self.path.exists() else []
        return [folder for folder in folders if _is_link(folder) or (folder / "checkpoints").exists()]

    def _reach(self) -> None:
        scheme = str(self.path).partition("://")[0]
        if not files.on_store(self.path):
            return
        try:
            self.path.exists()
        except ImportError as e:
            needed = PACKAGES[scheme]
            raise InputError(
                f"--workdir={self.path}: needs a package that is not installed; pip install {needed}"
            ) from e
        except Exception as e:  # every client has its own errors
            raise InputError(f"--workdir={self.path}: cannot be reached ({first_line(e)})") from e

    @contextmanager
    def opened(self, *, overwrite: bool) -> Iterator[None]:
        """Hold the folder for one run: create it, lock it, write config.json; with `overwrite`,
        delete the earlier run first.

        Raises:
          InputError: the folder cannot be written, or another run holds it.
        """
        with ExitStack() as held:  # by process 0; a lock of several processes would be their own enemy

            def take() -> None:
                held.enter_context(self._locked())
                self._prepare(overwrite)

            processes.on_main(take)
            self._check_shared()
            yield

    def _check_shared(self) -> None:
        """Refuse a folder that is another one for another process, such as one on each host's own disk."""
        if processes.count() == 1:
            return
        visible, until = processes.is_main(), time.monotonic() + SEEN
        while not visible and time.monotonic() < until:
            # a list of the folder: a network file system may go on saying that a file is missing
            visible = self.path.exists() and "config.json" in {file.name for file in self.path.iterdir()}
            if not visible:
                time.sleep(1)
        (blind,) = processes.all_max(-1 if visible else processes.index())
        if blind >= 0:
            raise InputError(
                f"--workdir={self.path}: process {blind} does not see what process 0 writes there; name a folder that "
                "all of them share, or gs://..."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock that the system takes back from a dead process. None on object stores."""
        if "://" in str(self.path):
            yield
            return
        with self._writable():
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / ".lock", "a+", errors="replace")  # noqa: SIM115
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                file.seek(0)
                raise InputError(f"--workdir={self.path}: another run holds it ({file.read()})") from e
            except OSError as e:  # some clusters mount a file system so
                why = f"its file system has no locks ({e.strerror or e})"
                log_line(f"note: --workdir={self.path}: {why}; see to it that no second run writes there meanwhile")
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            yield

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise InputError(f"--workdir={self.path}: cannot be written ({e.strerror or e})") from e

    def _prepare(self, overwrite: bool) -> None:
        self._check(overwrite)  # again: until the lock another run may have been here
        with self._writable():
            if overwrite:
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            written = self.path / "config.json"
            if not written.exists() or flatten(files.read_json(written)) != flatten(self._tree):
                files.write_json(written, self._tree)

    def _clear(self) -> None:
        """Delete what a run writes, and nothing else; config.json last, which says whose the rest is."""
        for folder in self._phases():
            if _is_link(folder):
                folder.unlink()
            else:
                folder.rmtree()
        for name in reversed(FILES):
            if (self.path / name).exists():
                (self.path / name).unlink()
