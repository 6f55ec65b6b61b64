"""What makes a data set this one and no other, wherever it lies: digests of a listing, of a description, of arrays."""

import hashlib
import os
from collections.abc import Iterable
from typing import Any

from kd_jax.data.names import shown
from kd_jax.typing import InputError


def of_files(parts: Iterable[tuple[str, Iterable]], root: Any) -> str:
    """sha256 of the names below root, sizes and classes of image files; none of them is opened.

    Args:
      parts: (name, examples) of the training and the test part; an example has `path` and `label`.
      root: their folder.

    Raises:
      InputError: a file that is not there.
    """
    total = hashlib.sha256()
    for part, examples in parts:
        for example in examples:
            name = os.fsencode(os.path.relpath(example.path, root))
            about = f"\0{part}\0{example.label}\0{_size(example.path)}\n"
            total.update(name + about.encode(errors="surrogateescape"))
    return total.hexdigest()


def of_text(*facts: Any) -> str:
    """sha256 of the facts of a description."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def of_arrays(*sources: Any) -> str:
    """sha256 of images, and of labels where there are any, in memory."""
    total = hashlib.sha256()
    for source in sources:
        for array in (source.images,) if source.labels is None else (source.images, source.labels):
            total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def difference(there: dict, here: dict) -> str | None:
    """How two identities (`Dataset.identity`) differ, as a phrase; None where they are the same data."""
    for key, what in (("train", "training images"), ("test", "test images"), ("num_classes", "classes")):
        if there[key] != here[key]:
            return f"{there[key]} {what} there and {here[key]} here"
    for ours, theirs in zip(here["classes"], there["classes"], strict=False):
        if ours != theirs:
            return f"a class is called {shown(theirs)} there and {shown(ours)} here"
    if there["digest"] != here["digest"]:
        return "as many images of these classes, but other ones"
    return None


def _size(path: Any) -> int:
    try:
        return path.stat().length if "://" in str(path) else os.path.getsize(path)
    except OSError as e:
        raise InputError(f"{shown(path)}: cannot be read ({e.strerror or e})") from e
