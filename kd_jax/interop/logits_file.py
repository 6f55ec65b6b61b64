"""A teacher's logits computed elsewhere: a NumPy .npz file with `logits` (N, K), in the order of the training set, and
optionally `test_logits`, in that of the test set."""

import zipfile
import zlib

import numpy as np

from kd_jax.interop.loaded import Loaded
from kd_jax.storage.digests import digest
from kd_jax.storage.workdir import resolve_path
from kd_jax.typing import InputError, Variables, first_line

NAMES = {"train": "logits", "test": "test_logits"}  # split -> the array's name in the file


def read(where: str, *, num_classes: int, sizes: dict[str, int]) -> Loaded:
    """The tables of logits in a file, as statistics: split -> (examples, K), float16 or float32.

    Args:
      where: the file.
      num_classes: K, of the data.
      sizes: of the training set and the test set.

    Raises:
      InputError: no such file, another kind of file, an array that is missing, or of another shape, type or with values
        that are not finite.
    """
    path = resolve_path(where)
    if not path.exists() or path.is_dir():
        raise InputError(f"logits:{where}: no file {path}")
    try:
        with path.open("rb") as file:
            tables = _tables(np.load(file, allow_pickle=False), num_classes, sizes)
    except InputError as e:
        raise InputError(f"logits:{where}: {e}") from e
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as e:
        why = f"not an .npz file of plain numbers, or a damaged one ({first_line(e)})"
        raise InputError(f"logits:{where}: {why}; np.savez(FILE, logits=..., test_logits=...) writes one") from e
    return Loaded(Variables({}, tables), digest(tables))


def _tables(file, num_classes: int, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise InputError("a single array; accepted: an .npz file, which np.savez(FILE, logits=...) writes")
    if NAMES["train"] not in file:
        raise InputError(f"no array logits; there are: {', '.join(file.files) or 'none'}")
    return {split: _table(name, file[name], num_classes, sizes[split]) for split, name in NAMES.items() if name in file}


def _table(name: str, table: np.ndarray, num_classes: int, size: int) -> np.ndarray:
    if table.shape != (size, num_classes):
        of = "training" if name == NAMES["train"] else "test"
        wanted = f"({size}, {num_classes}), a row for each of the {of} images and a column for each class"
        raise InputError(f"{name} has shape {table.shape}; accepted: {wanted}")
    if table.dtype not in (np.float16, np.float32, np.float64):
        raise InputError(f"{name} has type {table.dtype}; accepted: float16, float32 or float64")
    with np.errstate(over="ignore"):  # it is refused below
        table = table if table.dtype == np.float16 else table.astype(np.float32)
    wrong = ~np.isfinite(table).all(axis=1)
    if wrong.any():
        raise InputError(f"{name}: {wrong.sum()} rows are not finite, the first is row {int(wrong.argmax())}")
    return table
