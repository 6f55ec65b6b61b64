"""What Orbax raises: whether it proves that a checkpoint is damaged."""

import json
import logging
import sys
from functools import partial

from etils import epath

from kd_jax.storage.files import StorageError
from kd_jax.typing import InputError, first_line

# how tensorstore says that bytes are missing or do not decode; what it says of a disk or a network is not among them
_BYTES_ARE_WRONG = (
    "DATA_LOSS: ", "OUT_OF_RANGE: ", "NOT_FOUND: ", "FAILED_PRECONDITION: ", "Error opening ", "Error reading ",
)  # fmt: skip
_CHUNK = 1 << 20  # bytes


class DamagedError(ValueError):
    """The content of a checkpoint is not what was saved: a digest differs, or bytes do not decode."""


def diagnose(error: Exception, step: epath.Path) -> Exception:
    """What to raise for an error of reading the folder of a step: DamagedError only where every file can be read and
    the error says that their bytes are wrong; else StorageError; errors of our own types as they are."""
    if isinstance(error, (InputError, DamagedError, StorageError)):
        return error
    diagnosis = _diagnosis(error, step)
    diagnosis.__cause__ = error
    return diagnosis


def _diagnosis(error: Exception, step: epath.Path) -> Exception:
    try:
        _read_every_byte(step)
    except OSError as e:
        return StorageError(f"{step}: cannot be read ({first_line(e)}); every file stays where it is")
    proof = next(filter(_bytes_are_wrong, _chain(error)), None)
    if proof:
        return DamagedError(first_line(proof))
    what = f"{type(error).__name__}: {first_line(error)}"
    hint = "if you know it to be damaged, move this folder away and the run goes on from an earlier step"
    return StorageError(f"{step}: cannot be read ({what}); every file stays where it is; {hint}")


def _chain(error: BaseException | None):
    """An error and those that it was raised over."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _bytes_are_wrong(error: BaseException) -> bool:
    if isinstance(error, ValueError) and str(error).startswith(_BYTES_ARE_WRONG):
        return True
    return isinstance(error, (UnicodeDecodeError, json.JSONDecodeError, FileNotFoundError))


def _read_every_byte(folder: epath.Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _read_every_byte(path)
        else:
            with path.open("rb") as file:
                while file.read(_CHUNK):
                    pass


def quiet() -> None:
    """Let a failed save end in our one line: Orbax logs, asyncio reports tasks that nobody waits for, and tensorstore's
    threads print a traceback for every write that ends after its event loop."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if getattr(sys.unraisablehook, "func", None) is not _unraisable:
        sys.unraisablehook = partial(_unraisable, sys.unraisablehook)


def _unraisable(otherwise, event) -> None:
    """sys.unraisablehook, but for what tensorstore's callbacks say of a loop that is closed."""
    if not (event.exc_type is RuntimeError and str(event.exc_value) == "Event loop is closed"):
        otherwise(event)
