"""PyTorch's files written without PyTorch: `.pth`, as a zip, and `.safetensors`. `torch_read` reads them."""

import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from kd_jax.interop import pickles, torch_read

_CLASSES = {np.dtype(kind): name.encode() for name, kind in pickles.CLASSES.items()}
_ROOT = "archive/"  # what torch.save calls it when it writes into a stream
_ORDERED = b"ccollections\nOrderedDict\n)R"


def _pickled(value: Any) -> bytes:
    """The opcodes that push a plain value, which are a pickle without its head and its end."""
    return pickle.dumps(value, 2)[2:-1]


def _pickled_tensor(key: int, array: np.ndarray) -> bytes:
    # not array.strides, which may be anything where a size is 1
    strides = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
    storage = b"(" + _pickled("storage") + b"ctorch\n%bStorage\n" % _CLASSES[array.dtype]
    storage += _pickled(str(key)) + _pickled("cpu") + _pickled(array.size) + b"tQ"
    view = _pickled(0) + _pickled(array.shape) + _pickled(strides) + _pickled(False) + _ORDERED
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"tR"


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add an entry with a fixed date. Its content begins at a multiple of 64 bytes as in torch's own files, which torch
    may map to memory."""
    entry = zipfile.ZipInfo(_ROOT + name)  # dated 1980
    entry.create_system = 0  # else bytes depend on the platform
    pad = -(archive.fp.tell() + 30 + len(entry.filename) + 4) % 64
    entry.extra = struct.pack("<2sH", b"FB", pad) + bytes(pad)
    archive.writestr(entry, content)


def _replace(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file beside `path` and rename it, so that a reader sees the old content or the new, never a part."""
    path = epath.Path(path).expanduser()
    beside = path.parent / f".{path.name}.new"
    try:
        with beside.open("wb") as file:
            write(file)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _checked(tensors: Mapping[str, np.ndarray], types: Collection[np.dtype]) -> dict[str, np.ndarray]:
    """The tensors in C order, of the types that the format has."""
    arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}  # ascontiguousarray makes () to (1,)
    for array in arrays.values():
        if array.dtype not in types:
            raise TypeError(f"arrays of {array.dtype} are not written")
    return arrays


def write_torch(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], about: dict) -> None:
    """Write {"model": OrderedDict of tensors, "kd_jax": about} as torch.save would (1.6 and later read it).

    Args:
      path: the file, replaced in one go. The same arguments give the same bytes.
      tensors: name -> array of a type that PyTorch has a storage class for, of any shape.
      about: whatever JSON holds, and it is written as JSON has it: tuples as lists, keys as text.

    Raises:
      TypeError: another type among the arrays or in about. OSError: as the file system says.
    """
    arrays = _checked(tensors, _CLASSES)
    about = json.loads(json.dumps(about))  # a pickle's bytes depend on which equal texts are one object
    model = b"".join(_pickled(name) + _pickled_tensor(i, a) for i, (name, a) in enumerate(arrays.items()))
    code = b"\x80\x02}(" + _pickled("model") + _ORDERED + b"(" + model + b"u"
    code += _pickled("kd_jax") + _pickled(about) + b"u."

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            _add(archive, "data.pkl", code)
            _add(archive, "byteorder", b"little")
            for i, array in enumerate(arrays.values()):
                _add(archive, f"data/{i}", array.tobytes())
            _add(archive, "version", b"3\n")

    _replace(path, write)


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], about: dict) -> None:
    """Write tensors as safetensors, with `about` as JSON in the metadata's "kd_jax".

    Args:
      path: the file, replaced in one go. The same arguments give the same bytes.
      tensors: name -> array, of any shape; the library puts the widest types first, so that all are aligned.
      about: whatever JSON holds.

    Raises:
      TypeError: another type among the arrays or in about. OSError: as the file system says.
    """
    import safetensors.numpy

    arrays = _checked(tensors, {np.dtype(kind) for kind in torch_read.SAFETENSORS.values()})
    raw = safetensors.numpy.save(arrays, {"format": "pt", "kd_jax": json.dumps(about)})
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # the library's order is that of a hash
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    _replace(path, lambda file: file.write(struct.pack("<Q", len(text)) + text + raw[start:]))
