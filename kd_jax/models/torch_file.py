"""PyTorch's files without PyTorch: `.pth` (the zip of 1.6 and later, and the form before it) and `.safetensors`.

A `.pth` is a pickle, and a pickle is a program. Python's unpickler is no place for a stranger's program, not even
under an allow-list: BUILD sets attributes of what the list allows, five bytes of memo index ask for gigabytes, and the
hash of a deeply nested key ends the process. So the program runs on the small machine below. It imports nothing, looks
up no attribute, calls only the functions of _CALLS, and takes memory in proportion to the file's size.

Facts of the format: a tensor is a view (offset, sizes, strides, all in elements) of a storage that others may share;
the pickle names a storage by a persistent id. In a zip the storage is the stored entry ROOT/data/KEY. In the older form
five pickles (magic, protocol, machine, object, keys) precede the storages, each its length in elements and its bytes.
"""

import io
import json
import math
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from kd_jax.typing import InputError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the older form
_ROOT = "archive/"  # what torch.save calls it when it writes into a stream
_STATE_DICT = "save model.state_dict() instead"
_EXPANDED = 1 << 24  # elements of a view with more elements than its storage: a stride of 0 makes any size of one

_SAFETENSORS = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
}
_TORCH = {f"torch.{np.dtype(d).name}": np.dtype(d) for d in _SAFETENSORS.values()}
_CLASSES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Bool": "bool"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"},
}
_STORAGES = {
    **{f"torch {c}Storage": _TORCH[f"torch.{name}"] for c, name in _CLASSES.items()},
    **{f"{module} UntypedStorage": np.dtype(np.uint8) for module in ("torch", "torch.storage")},
}
_COUNTED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
_NUMPY = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())


class _Global(str):
    """MODULE NAME of an allowed global. Only the machine knows what it stands for."""


class _Options(dict):
    """Stands for argparse.Namespace, in which training scripts keep their options."""


class _Later:
    """A numpy dtype or array: it is filled by BUILD, when others may point at it already."""

    def __init__(self, fill: Callable, value: Any = None):
        self.fill, self.value = fill, value

    def content(self) -> Any:
        if self.value is None:
            raise InputError("a numpy array without content")
        return self.value


def _key(key: Any) -> Any:
    """A key whose hash is safe to take, that is no deep nest of tuples."""
    parts = key if isinstance(key, tuple) and len(key) <= 16 else (key,)
    if not all(part is None or isinstance(part, str | int | float | bytes | np.generic) for part in parts):
        raise InputError("a key that is no plain value")
    return key


def _items(values: Any) -> Any:
    """Only these are copied, for `spend` counts them. A small file can hold an array of very many elements."""
    if not isinstance(values, _COUNTED):
        raise InputError("a container made of what is none")
    return values


def _mapping(items: Any = ()) -> dict:
    return {_key(k): v for k, v in (items.items() if isinstance(items, dict) else _items(items))}


def _bytes(value: Any = b"", encoding: str = "latin1") -> bytes:
    """Bytes, or the text as which older pickles keep them. Never bytes(n), which allocates what it is told."""
    if encoding not in ("latin1", "latin-1") or not isinstance(value, str | bytes | bytearray):
        raise InputError("bytes in a form that is not read")
    return value.encode("latin1") if isinstance(value, str) else bytes(value)


def _device(kind: str, index: int | None = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise InputError("a device in a form that is not read")
    return kind if index is None else f"{kind}:{index}"


def _tensor(storage: np.ndarray, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> np.ndarray:
    """A read-only view, after a check that every element lies in its storage."""
    known = len(size) == len(stride) <= 64  # else the next line could be a long one
    if not known or not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
        raise InputError("a tensor with a bad offset, size or stride")
    if metadata:
        raise InputError("a tensor is a conjugate or negated view; save a clone of it")
    if 0 in size:
        storage, offset, stride = np.zeros(0, storage.dtype), 0, (0,) * len(size)
    elif offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= storage.size:
        raise InputError("a tensor reaches outside its storage")
    elif math.prod(size) > max(storage.size, _EXPANDED):
        raise InputError("a tensor with far more elements than its storage")
    item = storage.itemsize
    view = np.ndarray(tuple(size), storage.dtype, storage, offset * item, tuple(s * item for s in stride))
    view.flags.writeable = False
    return view


def _tensor_of_bytes(storage, offset, size, stride, grad, hooks, dtype, metadata=None) -> np.ndarray:
    """Torch saves the types that have no storage class so, such as uint16."""
    if not isinstance(dtype, str):
        raise InputError("a tensor without a type")
    return _tensor(storage.view(_TORCH[dtype]), offset, size, stride, grad, hooks, metadata)


def _dtype(code: str, *_) -> _Later:
    if not isinstance(code, str):  # a tuple could be too deep to hash
        raise InputError("a numpy type without a name")
    if code not in _NUMPY:
        raise InputError(f"a numpy type {code!r}; only bool, int, uint and float are read")
    return _Later(_order, np.dtype(code))


def _order(dtype: np.dtype, state: tuple) -> np.dtype:
    if state[1] not in ("<", ">", "=", "|"):
        raise InputError("a numpy type in a form that is not read")
    return dtype.newbyteorder(state[1])


def _array(dtype: np.dtype, raw: Any, shape: tuple = (), fortran: bool = False) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise InputError("a numpy array without a type")
    array = np.ndarray(shape, dtype, _bytes(raw), order="F" if fortran else "C")  # raises where raw is short
    return array.astype(dtype.newbyteorder("="), copy=False)


def _fill_array(_, state: tuple) -> np.ndarray:
    _, shape, dtype, fortran, raw = state
    return _array(dtype, raw, shape, fortran)


_CALLS = {
    "collections OrderedDict": _mapping,
    "collections Counter": _mapping,
    "argparse Namespace": lambda: _Options(),
    "torch Size": lambda sizes=(): tuple(_items(sizes)),
    "torch device": _device,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils _rebuild_parameter": lambda data, *_: data,
    "torch._utils _rebuild_parameter_with_state": lambda data, *_: data,
    "numpy dtype": _dtype,
    "_codecs encode": _bytes,
    **{f"numpy.{core}.multiarray scalar": lambda dtype, raw: _array(dtype, raw)[()] for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray _reconstruct": lambda *_: _Later(_fill_array) for core in ("core", "_core")},
    **{f"{module} set": lambda items=(): set(map(_key, _items(items))) for module in ("builtins", "__builtin__")},
    **{f"{m} frozenset": lambda items=(): frozenset(map(_key, _items(items))) for m in ("builtins", "__builtin__")},
    **{f"{module} bytes": lambda: b"" for module in ("builtins", "__builtin__")},
}


class _Machine:
    """Runs one pickle of an open file and leaves the file behind it.

    storage: (dtype, key, count, ...) -> a storage, (count,). size: of the whole file, in bytes. The opcodes are those
    that picklers of protocol 2 and later write, in _OPCODES; no other is known.
    """

    def __init__(self, file: "BinaryIO | _Bounded", size: int, storage: Callable | None = None):
        self.file, self.storage = file, storage
        self.stack, self.marks, self.memo = [], [], {}
        self.left = 2 * size  # what calls may copy; else one list, copied by each of many calls, makes gigabytes

    def run(self) -> Any:
        for op, arg, _ in pickletools.genops(self.file):
            if op.name == "STOP":
                return self.last(1)[0]
            if op.name not in _OPCODES:
                raise InputError(f"pickle opcode {op.name} ({str(arg)[:80]}) is not read")
            _OPCODES[op.name](self, arg)

    def last(self, count: int) -> list:
        if count > len(self.stack):
            raise InputError("a pickle that takes more than it made")
        return self._taken(len(self.stack) - count)

    def marked(self) -> list:
        return self._taken(self.marks.pop())

    def _taken(self, at: int) -> list:
        """What lies on the stack from there on, taken off it."""
        items = [v.content() if isinstance(v, _Later) else v for v in self.stack[at:]]
        del self.stack[at:]
        return items

    def top(self, *kinds: type) -> Any:
        if not isinstance(self.stack[-1], kinds):
            raise InputError("a pickle that changes what is no container")
        return self.stack[-1]

    def extend(self, items: list) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list) -> None:
        self.top(dict).update(_mapping(list(zip(items[::2], items[1::2], strict=True))))

    def add_items(self, items: list) -> None:
        self.top(set).update(map(_key, items))

    def refer(self, name: str) -> None:
        """Push what stands for the global "MODULE NAME", or refuse it."""
        shown = name.replace(" ", ".", 1)
        if name in _CALLS or name in _STORAGES or name == "numpy ndarray":
            self.stack.append(_Global(name))
        elif shown in _TORCH:
            self.stack.append(shown)
        else:
            hint = f" (it holds a whole module: {_STATE_DICT})" if b"_parameters" in self.file.read(1 << 20) else ""
            raise InputError(f"refers to {shown[:100]}; only tensors and plain containers are read{hint}")

    def refer_by_stack(self) -> None:
        pair = self.last(2)
        if not all(isinstance(part, str) for part in pair):
            raise InputError("a global without a name")
        self.refer(" ".join(pair))

    def refer_to_storage(self) -> None:
        match self.last(1):
            case [("storage", _Global() as kind, str() as key, _, int() as count, *view)] if kind in _STORAGES:
                self.stack.append(self.storage(_STORAGES[kind], key, count, *view))
            case _:
                raise InputError("a storage in a form that is not read")

    def call(self) -> None:
        function, args = self.last(2)
        if not isinstance(function, _Global) or function not in _CALLS or not isinstance(args, tuple):
            raise InputError("a pickle that calls what is no function")
        self.spend(args)
        self.stack.append(_CALLS[function](*args))

    def build(self) -> None:
        (state,) = self.last(1)
        target = self.top(_Later, dict)
        if isinstance(target, _Later) and isinstance(state, tuple):
            self.spend(state)
            target.value = target.fill(target.value, state)
        elif isinstance(target, _Options):  # another dict's state is no content, such as a state dict's _metadata
            self.spend([state])
            target.update(_mapping(state))

    def spend(self, values: Iterable) -> None:
        self.left -= sum(len(v) for v in values if isinstance(v, _COUNTED))
        if self.left < 0:
            raise InputError("a pickle that unpacks to far more than its size")


def _push(make: Callable) -> Callable:
    return lambda m, arg: m.stack.append(make(m, arg))


_LITERALS = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8"
)
_OPCODES = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, arg: None),
    **dict.fromkeys(_LITERALS.split(), _push(lambda m, arg: arg)),
    "NONE": _push(lambda m, _: None),
    "NEWTRUE": _push(lambda m, _: True),
    "NEWFALSE": _push(lambda m, _: False),
    "EMPTY_DICT": _push(lambda m, _: {}),
    "EMPTY_LIST": _push(lambda m, _: []),
    "EMPTY_SET": _push(lambda m, _: set()),
    "EMPTY_TUPLE": _push(lambda m, _: ()),
    "TUPLE": _push(lambda m, _: tuple(m.marked())),
    "TUPLE1": _push(lambda m, _: tuple(m.last(1))),
    "TUPLE2": _push(lambda m, _: tuple(m.last(2))),
    "TUPLE3": _push(lambda m, _: tuple(m.last(3))),
    "FROZENSET": _push(lambda m, _: frozenset(map(_key, m.marked()))),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.last(1),
    "POP_MARK": lambda m, _: m.marked(),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "SETITEM": lambda m, _: m.set_items(m.last(2)),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "ADDITEMS": lambda m, _: m.add_items(m.marked()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, arg: m.memo.update({arg: m.stack[-1]})),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _push(lambda m, arg: m.memo[arg])),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    "GLOBAL": lambda m, arg: m.refer(arg),
    "STACK_GLOBAL": lambda m, _: m.refer_by_stack(),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.refer_to_storage(),
}


def _root(archive: zipfile.ZipFile, size: int) -> str:
    """The folder in a zip that holds data.pkl, after a check that the zip unpacks to no more than its size."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise InputError(f"a TorchScript archive; {_STATE_DICT}")
    found = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise InputError("a zip, but not one that torch.save wrote (it has no data.pkl)")
    entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
        raise InputError("a zip with compressed entries; torch.save writes none")
    if sum(e.file_size for e in entries) > size:
        raise InputError("a zip whose entries are larger than the file")
    return found[0].removesuffix("data.pkl")


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

    return _Machine(io.BytesIO(archive.read(f"{root}data.pkl")), size, storage).run()


class _Bounded:
    """A file of which no more is asked than is left: Python allocates what read(n) asks for, and then reads."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.tell, self.readline = file.tell, file.readline

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size - self.tell()))


def _read_legacy(file: BinaryIO, size: int) -> Any:
    file = _Bounded(file, size)
    if _Machine(file, size).run() != _MAGIC or _Machine(file, size).run() != _PROTOCOL:
        raise InputError("a pickle, but not one that torch.save wrote")
    _Machine(file, size).run()  # the machine's sizes of integers; the storages are little-endian on all
    made, left = {}, size

    def storage(dtype: np.dtype, key: str, count: int, view: tuple | None = None) -> np.ndarray:
        nonlocal left
        if key not in made:
            left -= abs(count) * dtype.itemsize
            if left < 0 or count < 0:  # before anything is allocated
                raise InputError("truncated: its storages would be larger than the file")
            made[key] = np.zeros(count, dtype)
        if (made[key].size, made[key].dtype) != (count, dtype):
            raise InputError(f"storage {key} has two sizes or types")
        _, start, length = view or (None, 0, count)
        if not (type(start) is int and type(length) is int and 0 <= start <= start + length <= count):
            raise InputError("a view reaches outside its storage")
        return made[key][start : start + length]

    content = _Machine(file, size, storage).run()
    keys = _Machine(file, size).run()
    if not isinstance(keys, list) or {_key(k) for k in keys} != set(made):
        raise InputError("the list of storages is not that of the pickle")
    for key in keys:
        _fill(made[key], file)
    return content


def _fill(storage: np.ndarray, file: _Bounded) -> None:
    (count,) = struct.unpack("<q", file.read(8))
    if count != storage.size:
        raise InputError("a storage has another length than the pickle says")
    raw = file.read(storage.nbytes)
    if len(raw) != storage.nbytes:  # a single byte would be broadcast
        raise InputError("truncated: its last storages are missing")
    storage.view(np.uint8)[:] = np.frombuffer(raw, np.uint8)


def _read_safetensors(file: BinaryIO, size: int) -> dict:
    raw = file.read()
    found = dict(safetensors.deserialize(raw))  # checks the header and every range
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    about = header.pop("__metadata__", None) or {}
    if "kd_jax" in about:
        about["kd_jax"] = json.loads(about["kd_jax"])
    unread = {spec["dtype"] for spec in found.values()} - set(_SAFETENSORS)
    if unread:
        raise InputError(f"holds tensors of type {', '.join(sorted(unread))}, which are not read")
    tensors = {}
    for name in header:  # the library's order is that of a hash
        spec = found.pop(name)
        tensors[name] = np.ndarray(spec["shape"], _SAFETENSORS[spec["dtype"]], spec["data"])
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
    """The content of a `.pth` or `.safetensors`, told apart by what they hold and not by their names.

    Args:
      path: a file of torch.save (any version since 0.1.10) or of safetensors.

    Returns:
      What was saved. A tensor is a read-only array, bfloat16 by ml_dtypes; arrays share memory where tensors did.
      OrderedDict, Counter and argparse.Namespace are dicts; a torch.device or dtype is its name. A safetensors file
      is {"model": {name: array}, ...} and its metadata, of which "kd_jax" is parsed as JSON.

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


_ORDERED = b"ccollections\nOrderedDict\n)R"


def _tuple(values: Iterable) -> bytes:
    return b"(" + b"".join(map(_pickled, values)) + b"t"


def _pickled(value: Any) -> bytes:
    """Opcodes of protocol 2 that push a plain value."""
    match value:
        case None | bool():
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + struct.pack("<B", len(raw)) + raw
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            raw = value.encode()
            return b"X" + struct.pack("<I", len(raw)) + raw
        case list() | tuple():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_pickled(k) + _pickled(v) for k, v in value.items()) + b"u"
    raise TypeError(f"{type(value).__name__} in what a file says about itself; only plain values are written")


def _pickled_tensor(key: int, array: np.ndarray) -> bytes:
    classes = {_TORCH[f"torch.{name}"]: c for c, name in _CLASSES.items()}
    if array.dtype not in classes:
        raise TypeError(f"arrays of {array.dtype} are not written")
    # not array.strides, which may be anything where a size is 1
    strides = [math.prod(array.shape[i + 1 :]) for i in range(array.ndim)]
    storage = b"(" + _pickled("storage") + b"ctorch\n%bStorage\n" % classes[array.dtype].encode()
    storage += _pickled(str(key)) + _pickled("cpu") + _pickled(array.size) + b"tQ"
    view = _pickled(0) + _tuple(array.shape) + _tuple(strides) + b"\x89" + _ORDERED
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"tR"


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """An entry of fixed date, its content at a multiple of 64 bytes as torch's own (it may map files to memory)."""
    entry = zipfile.ZipInfo(_ROOT + name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 0  # else bytes depend on the platform
    pad = -(archive.fp.tell() + 30 + len(entry.filename) + 4) % 64
    entry.extra = struct.pack("<2sH", b"FB", pad) + bytes(pad)
    archive.writestr(entry, content)


def _replace(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Rename a finished file, so that a reader sees the old one or the new one, never half of it."""
    path = epath.Path(path).expanduser()
    beside = path.parent / f".{path.name}.new"
    try:
        with beside.open("wb") as file:
            write(file)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_torch(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], about: dict) -> None:
    """Write {"model": OrderedDict of tensors, "kd_jax": about} as torch.save would (1.6 and later read it).

    Args:
      path: the file, replaced in one go. The same arguments give the same bytes.
      tensors: name -> array of a type that PyTorch has a storage class for, of any shape.
      about: plain values: str, int, float, bool, None, and lists and dicts of them.

    Raises:
      TypeError: another type among the arrays or in about. OSError: as the file system says.
    """
    arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}  # ascontiguousarray makes () to (1,)
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
      path: the file, replaced in one go. The same arguments give the same bytes, which the library does not promise.
      tensors: name -> array, of any shape; the widest types come first in the file, so that all are aligned.
      about: whatever JSON holds.

    Raises:
      TypeError: a type of array that is not read either. OSError: as the file system says.
    """
    arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    header, at = {"__metadata__": {"format": "pt", "kd_jax": json.dumps(about)}}, 0
    for name, array in arrays.items():
        code = next((code for code, dtype in _SAFETENSORS.items() if dtype == array.dtype), None)
        if code is None:
            raise TypeError(f"arrays of {array.dtype} are not written")
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": (at, at + array.nbytes)}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())

    _replace(path, write)
