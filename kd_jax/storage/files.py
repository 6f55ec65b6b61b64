"""Files of a run's folder, on a disk or an object store: whole or not there."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from etils import epath

from kd_jax.distributed import processes
from kd_jax.typing import InputError, first_line


class StorageError(OSError):
    """A file of a run could not be written or read. What was written before is intact, and nothing was moved."""


@contextmanager
def writing(path: epath.Path) -> Iterator[None]:
    """What goes wrong inside, as a line that names the file.

    Raises:
      StorageError: it could not be written.
    """
    try:
        yield
    except OSError as e:
        raise StorageError(f"{path}: cannot be written ({e.strerror or first_line(e)})") from e


def write_json(path: epath.Path, document: Any, *, shared: bool = False) -> None:
    """Write a JSON document so that a reader sees the old one or the new one, never half of it. shared: as for
    `write_text`."""
    write_text(path, json.dumps(document, indent=2) + "\n", shared=shared)


def write_text(path: epath.Path, text: str, *, shared: bool = False) -> None:
    """Write a text file in one go, by renaming a finished one; an object store shows a file once it is whole. Of
    several processes the first one writes. shared: whether other runs may write the file at the same time."""
    if not processes.is_main():
        return
    with writing(path):
        if on_store(path):
            path.write_text(text)
            return
        writer = f"{socket.gethostname()}-{os.getpid()}." if shared else ""
        beside = path.parent / f".{path.name}.{writer}new"
        with beside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a loss of power may leave the new name with nothing in it
        beside.replace(path)


def on_store(path: epath.Path) -> bool:
    """Whether a path is on an object store: no append, no rename, no lock, no empty folders."""
    return "://" in str(path)


def move(folder: epath.Path, target: epath.Path) -> None:
    """Move a folder; on an object store file by file."""
    if not on_store(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        return
    for file in list(folder.iterdir()):
        if file.is_dir():
            move(file, target / file.name)
        else:
            file.copy(target / file.name)
    folder.rmtree()


def read_json(path: epath.Path, otherwise: str = "start afresh with --overwrite") -> dict:
    """Read a JSON object; InputError if it is not one. otherwise: what a user can do who cannot restore it."""
    try:
        document = json.loads(path.read_text())
        if not isinstance(document, dict):
            raise ValueError(f"a {type(document).__name__}, not an object")
    except ValueError as e:
        raise InputError(f"{path}: not readable JSON ({e}); restore it, or {otherwise}") from e
    return document
