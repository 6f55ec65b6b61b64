"""PyTorch's files read without PyTorch: `.pth` (the zip of 1.6 and later, and the form before it) and `.safetensors`.

A tensor is a view (offset, sizes, strides, all in elements) of a storage, which several tensors may share. The pickle
names a storage by a persistent id. In a zip the storage is the stored entry ROOT/data/KEY. The older form begins with
five pickles (magic, protocol, machine, object, keys). The storages follow, each as its length in elements and its
bytes.
"""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from etils import epath

from kd_jax.interop import pickles
from kd_jax.typing import InputError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the older form
SAFETENSORS = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
}


def _root(archive: zipfile.ZipFile, size: int) -> str:
    """The folder in a zip that holds data.pkl. It checks that the zip unpacks to no more than its size."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise InputError(f"a TorchScript archive; {pickles.STATE_DICT}")
    pickled = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickled) != 1:
        raise InputError("a zip, but not one that torch.save wrote (it has no data.pkl)")
    entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
        raise InputError("a zip with compressed entries; torch.save writes none")
    if sum(e.file_size for e in entries) > size:
        raise InputError("a zip whose entries are larger than the file")
    return pickled[0].removesuffix("data.pkl")


def _read_zip(file: BinaryIO, size: int) -> Any:
    archive, raw = zipfile.ZipFile(file), {}
    root = _root(archive, size)
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise InputError("saved on a big-endian machine, which is not read")

    def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if key not in raw:
            raw[key] = np.frombuffer(archive.read(f"{root}data/{key}"), np.uint8)
        if not 0 <= count * dtype.itemsize <= raw[key].size:
            raise InputError(f"storage {key} is shorter than the pickle says")
        return raw[key][: count * dtype.itemsize].view(dtype)

    return pickles.run(io.BytesIO(archive.read(f"{root}data.pkl")), storage)


def _read_legacy(file: BinaryIO, size: int) -> Any:
    file = io.BytesIO(file.read())
    if pickles.run(file) != _MAGIC or pickles.run(file) != _PROTOCOL:
        raise InputError("a pickle, but not one that torch.save wrote")
    pickles.run(file)  # the machine's sizes of integers; the storages are little-endian on all
    storages, left = {}, size

    def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        """Zeros, filled below: the storages come after the pickle."""
        nonlocal left
        if key not in storages:
            left -= abs(count) * dtype.itemsize
            if left < 0 or count < 0:  # before anything is allocated
                raise InputError("truncated: its storages would be larger than the file")
            storages[key] = np.zeros(count, dtype)
        if (storages[key].size, storages[key].dtype) != (count, dtype):
            raise InputError(f"storage {key} has two sizes or types")
        return storages[key]

    content = pickles.run(file, storage)
    if pickles.run(file) != sorted(storages):
        raise InputError("the list of storages is not that of the pickle")
    for key in sorted(storages):
        if struct.unpack("<q", file.read(8)) != (storages[key].size,):
            raise InputError("a storage has another length than the pickle says")
        raw = file.read(storages[key].nbytes)
        if len(raw) != storages[key].nbytes:  # a single byte would be broadcast
            raise InputError("truncated: its last storages are missing")
        storages[key].view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
    return content


def _read_safetensors(file: BinaryIO, size: int) -> dict:
    import safetensors

    raw = file.read()
    specs = dict(safetensors.deserialize(raw))  # checks the header and every range
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    about = header.pop("__metadata__", None) or {}
    if "kd_jax" in about:
        about["kd_jax"] = json.loads(about["kd_jax"])
    unread = {spec["dtype"] for spec in specs.values()} - set(SAFETENSORS)
    if unread:
        raise InputError(f"holds tensors of type {', '.join(sorted(unread))}, which are not read")
    tensors = {}
    for name in header:  # the library's order is that of a hash
        spec = specs[name]
        tensors[name] = np.ndarray(spec["shape"], SAFETENSORS[spec["dtype"]], spec["data"])
        tensors[name].flags.writeable = False
    return {**about, "model": tensors}


def _form(head: bytes) -> Callable:
    """The reader for a file that begins so; InputError says what else the file is."""
    if not head:
        raise InputError("the file is empty")
    if head.startswith(b"PK"):
        return _read_zip
    if head.startswith(b"\x80"):
        return _read_legacy
    if head[5:9] == b"\0\0\0{":  # the header's length, then the header
        return _read_safetensors
    if head.startswith(b"version https://git-lfs"):
        raise InputError("a git-LFS pointer, not the file itself; fetch it with git lfs pull")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError("a web page, not the file itself; its download failed")
    if head[257:262] == b"ustar":
        raise InputError("a tar, as PyTorch wrote before 0.1.10; load and save it with a newer PyTorch")
    raise InputError(f"neither a PyTorch nor a safetensors file (it begins with {head[:16]!r})")


def _line(text: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text))[:300]


def read(path: str | os.PathLike) -> Any:
    """The content of a `.pth` or `.safetensors` file. Its content decides which of them it is, not its name.

    Args:
      path: a file of torch.save (any version since 0.1.10) or of safetensors.

    Returns:
      The saved object. A tensor becomes a read-only array (bfloat16 by ml_dtypes); arrays share memory where tensors
      did. OrderedDict, Counter and argparse.Namespace are dicts; a torch.dtype is its name, a torch.device a tuple of
      its parts. A safetensors file is {"model": {name: array}, ...} and its metadata, of which "kd_jax" is parsed as
      JSON.

    Raises:
      InputError: no such file, a damaged one, another kind, or one that refers to anything but tensors and plain
        containers. Nothing in a file is ever imported or run.
    """
    path = epath.Path(path).expanduser()
    try:
        if not path.exists():
            raise InputError("no such file")
        if path.is_dir():
            raise InputError("a folder, not a file")
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            reader = _form(file.read(512))
            file.seek(0)
            return reader(file, size)
    except InputError as e:
        raise InputError(f"{path}: {_line(e)}") from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({_line(e.strerror or e)})") from e
    except Exception as e:  # damaged bytes raise anything
        raise InputError(f"{path}: truncated or damaged ({_line(f'{type(e).__name__}: {e}')})") from e
