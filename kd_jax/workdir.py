"""A run's folder, and the rule that one folder holds one configuration."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from etils import epath

from kd_jax import hosts, writers
from kd_jax.typing import InputError

# a run may move to another machine, and may log or save more often: not part of its identity
FREE = ("parallel.mesh", "data.dir", "log", "checkpoint")
FILES = ("config.json", "metrics.jsonl", "summary.json", "report.md", "curves.png")


def place(path: str) -> epath.Path:
    """A folder as the user wrote it, made absolute (Orbax refuses others); gs:// and the like as is."""
    return epath.Path(path if "://" in path else os.path.abspath(os.path.expanduser(path)))


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


def difference(old: dict, new: dict) -> str | None:
    """The first key in which two configurations are different runs, as a phrase, or None."""
    old, new = flatten(old), flatten(new)
    for key in sorted({*old, *new}):
        free = any(key == f or key.startswith(f"{f}.") for f in FREE)
        if not free and old.get(key) != new.get(key):
            return f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"
    return None


class Workdir:
    """The folder of a run with the resolved configuration `tree`."""

    def __init__(self, path: str, tree: dict):
        self.path = place(path)
        self._tree = tree

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds another run; changes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir={self.path}: is a file, not a folder")
        written = self.path / "config.json"
        if overwrite or not written.exists():
            return
        changed = difference(writers.read_json(written), self._tree)
        if changed:
            raise InputError(
                f"--workdir={self.path}: holds another run: config.{changed}; name another folder or add --overwrite"
            )

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

            hosts.by_first(take)
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock that the system takes back from a dead process. None on object stores."""
        if "://" in str(self.path):
            yield
            return
        with self._writable():
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / ".lock", "a+")  # noqa: SIM115
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                file.seek(0)
                raise InputError(f"--workdir={self.path}: another run holds it ({file.read()})") from e
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
        with self._writable():
            if overwrite and (self.path / "config.json").exists():
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            written = self.path / "config.json"
            if not written.exists() or flatten(writers.read_json(written)) != flatten(self._tree):
                writers.write_json(written, self._tree)

    def _clear(self) -> None:
        """Delete what a run writes, and nothing else."""
        for folder in self.path.iterdir():
            if folder.is_dir() and (folder / "checkpoints").exists():
                folder.rmtree()
        for name in FILES:
            if (self.path / name).exists():
                (self.path / name).unlink()
