"""A teacher's logits computed elsewhere: a NumPy .npz file with `logits` (N, K), in the order of the training set, and
optionally `test_logits`, in that of the test set."""

import numpy as np
from etils import epath

from kd_jax.data.sources import Share
from kd_jax.interop.loaded import Loaded
from kd_jax.storage.digests import digest
from kd_jax.typing import InputError, Variables, first_line

NAMES = {"train": "logits", "test": "test_logits"}  # split -> the array's name in the file


def read(where: str, *, num_classes: int, sizes: dict[str, int], share: Share | None = None) -> Loaded:
    """The tables of logits in a file, as statistics: split -> (examples, K), float16 or float32.

    Args:
      where: the file.
      num_classes: K, of the data.
      sizes: of the training set and the test set.
      share: what the training set is a part of; then the file may have a row for each image of the whole, too.

    Raises:
      InputError: no such file, another kind of file, an array that is missing, or of another shape, type or with values
        that are not finite.
    """
    arrays = _arrays(f"logits:{where}", epath.Path(where).expanduser())
    tables = {}
    for split, array in arrays.items():
        wanted = f"({sizes[split]}, {num_classes}), a row for each {split} image and a column for each class"
        rows = sizes[split]
        if split == "train" and share is not None:
            wanted += f"; or ({share.whole}, {num_classes}), for the whole set that they were taken from"
            rows = share.whole if array.shape[:1] == (share.whole,) else rows
        table = _table(f"logits:{where}: {NAMES[split]}", array, (rows, num_classes), wanted)
        tables[split] = table[share.positions] if rows != sizes[split] else table
    return Loaded(Variables({}, tables), digest(tables))


def _arrays(origin: str, path: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by split, as they are stored."""
    if not path.exists() or path.is_dir():
        raise InputError(f"{origin}: there is no such file")
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            names = list(getattr(file, "files", ()))
            arrays = {split: file[name] for split, name in NAMES.items() if name in names}
    except Exception as e:  # whatever numpy and zipfile raise over a file that is none of theirs
        why = f"cannot be read as an .npz file of plain numbers ({type(e).__name__}: {first_line(e)})"
        raise InputError(f"{origin}: {why}; np.savez(FILE, logits=..., test_logits=...) writes one") from e
    if "train" not in arrays:
        present = ", ".join(map(repr, names)) or "none"
        raise InputError(f"{origin}: no array {NAMES['train']!r} in it; there are: {present}")
    return arrays


def _table(name: str, array: np.ndarray, shape: tuple[int, int], wanted: str) -> np.ndarray:
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}; accepted: {wanted}")
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise InputError(f"{name} has type {array.dtype}; accepted: float16, float32 or float64")
    with np.errstate(over="ignore"):  # it is refused below
        table = array if array.dtype == np.float16 else array.astype(np.float32)
    wrong = ~np.isfinite(table).all(axis=1)
    if wrong.any():
        raise InputError(f"{name}: {wrong.sum()} rows are not finite, the first is row {int(wrong.argmax())}")
    return table
