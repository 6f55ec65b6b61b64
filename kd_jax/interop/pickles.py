"""Pickles read without Python's unpickler.

A pickle is a program, and Python's unpickler is no place for a stranger's program, not even under an allow-list: BUILD
sets attributes of what the list allows, five bytes of memo index ask for gigabytes, and the hash of a deeply nested key
ends the process. So the program runs on the small machine below. It imports nothing, looks up no attribute, calls only
the functions of _CALLS, and takes memory in proportion to the size of the pickle.
"""

import io
import math
import pickletools
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np

from kd_jax.typing import InputError

STATE_DICT = "save model.state_dict() instead"
_EXPANDED = 1 << 24  # elements of a view with more elements than its storage: a stride of 0 makes any size of one

CLASSES = {  # of PyTorch's storages, and the type of their elements
    **{"Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16, "Bool": np.bool_},
    **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8},
}
_STORAGES = {
    **{f"torch {name}Storage": np.dtype(kind) for name, kind in CLASSES.items()},
    **{f"{module} UntypedStorage": np.dtype(np.uint8) for module in ("torch", "torch.storage")},
}
_TORCH = {f"torch.{np.dtype(t).name}": np.dtype(t) for t in (*CLASSES.values(), np.uint16, np.uint32, np.uint64)}
_NUMPY = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()
_COUNTED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


class _Global(str):
    """MODULE NAME of an allowed global. Only the machine knows what it stands for."""


class _Options(dict):
    """Stands for argparse.Namespace, in which training scripts keep their options."""


class _Array:
    """A numpy array that BUILD fills when others may point at it already."""

    filled = None

    def content(self) -> np.ndarray:
        if self.filled is None:
            raise InputError("a numpy array without content")
        return self.filled


def _plain(value: Any) -> Any:
    """A value whose hash is safe to take, that is no deep nest of tuples."""
    parts = value if isinstance(value, tuple) and len(value) <= 16 else (value,)
    if not all(part is None or isinstance(part, str | int | float | bytes | np.generic) for part in parts):
        raise InputError("a key or name that is no plain value")
    return value


def _items(values: Any) -> Any:
    """Only these are copied, for `spend` counts them. A small file can hold an array of very many elements."""
    if not isinstance(values, _COUNTED):
        raise InputError("a container made of what is none")
    return values


def _mapping(items: Any = ()) -> dict:
    return {_plain(k): v for k, v in (items.items() if isinstance(items, dict) else _items(items))}


def _bytes(value: Any = b"", encoding: str = "latin1") -> bytes:
    """Bytes, or the text as which older pickles keep them. Never bytes(n), which allocates what it is told."""
    if encoding not in ("latin1", "latin-1") or not isinstance(value, str | bytes | bytearray):
        raise InputError("bytes in a form that is not read")
    return value.encode("latin1") if isinstance(value, str) else bytes(value)


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
    return _tensor(storage.view(_TORCH[_plain(dtype)]), offset, size, stride, grad, hooks, metadata)


def _dtype(code: str, *_) -> np.dtype:
    if _plain(code) not in _NUMPY:
        raise InputError(f"a numpy type {code!r}; only bool, int, uint and float are read")
    return np.dtype(f"<{code}")


def _array(dtype: np.dtype, raw: Any, shape: tuple = (), fortran: bool = False) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise InputError("a numpy array without a type")
    return np.ndarray(shape, dtype, _bytes(raw), order="F" if fortran else "C")  # raises where raw is short


_CALLS = {
    "collections OrderedDict": _mapping,
    "collections Counter": _mapping,
    "argparse Namespace": lambda: _Options(),
    "torch Size": lambda sizes=(): tuple(_items(sizes)),
    "torch device": lambda *parts: parts,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils _rebuild_parameter": lambda data, *_: data,
    "torch._utils _rebuild_parameter_with_state": lambda data, *_: data,
    "numpy dtype": _dtype,
    "_codecs encode": _bytes,
    **{f"numpy.{core}.multiarray scalar": lambda dtype, raw: _array(dtype, raw)[()] for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray _reconstruct": lambda *_: _Array() for core in ("core", "_core")},
    **{f"{module} set": lambda items=(): set(map(_plain, _items(items))) for module in ("builtins", "__builtin__")},
    **{f"{m} frozenset": lambda items=(): frozenset(map(_plain, _items(items))) for m in ("builtins", "__builtin__")},
    **{f"{module} bytes": _bytes for module in ("builtins", "__builtin__")},
}


class _Machine:
    """What the opcodes of one pickle work on, and what they do."""

    def __init__(self, file: io.BytesIO, storage: Callable | None):
        self.file, self.storage = file, storage
        self.stack, self.marks, self.memo = [], [], {}
        # what calls may copy; else one list, copied by each of many calls, makes gigabytes
        self.left = 2 * file.getbuffer().nbytes

    def last(self, count: int) -> list:
        if count > len(self.stack):
            raise InputError("a pickle that takes more than it made")
        return self._taken(len(self.stack) - count)

    def marked(self) -> list:
        return self._taken(self.marks.pop())

    def _taken(self, at: int) -> list:
        """What lies on the stack from there on, taken off it."""
        items = [v.content() if isinstance(v, _Array) else v for v in self.stack[at:]]
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
        self.top(set).update(map(_plain, items))

    def refer(self, name: str) -> None:
        """Push what stands for the global "MODULE NAME", or refuse it."""
        shown = name.replace(" ", ".", 1)
        if name in _CALLS or name in _STORAGES or name == "numpy ndarray":
            self.stack.append(_Global(name))
        elif shown in _TORCH:
            self.stack.append(shown)
        else:
            hint = f" (it holds a whole module: {STATE_DICT})" if b"_parameters" in self.file.read(1 << 20) else ""
            raise InputError(f"refers to {shown[:100]}; only tensors and plain containers are read{hint}")

    def refer_to_storage(self) -> None:
        """The older form has a None behind; once it told of storages that are part of others."""
        match self.last(1):
            case [("storage", _Global() as kind, str() as key, _, int() as count, *rest)] if (
                kind in _STORAGES and rest in ([], [None])
            ):
                self.stack.append(self.storage(_STORAGES[kind], key, count))
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
        target = self.top(_Array, np.dtype, dict)
        self.spend(state if isinstance(state, tuple) else [state])
        if isinstance(target, _Array):
            _, shape, dtype, fortran, raw = state
            target.filled = _array(dtype, raw, shape, fortran)
        elif isinstance(target, np.dtype) and state[1] not in ("<", "|"):
            raise InputError("a numpy type in a form that is not read, such as big-endian")
        elif isinstance(target, _Options):  # another dict's state is no content, such as a state dict's _metadata
            target.update(_mapping(state))

    def spend(self, values: Iterable) -> None:
        self.left -= sum(len(v) for v in values if isinstance(v, _COUNTED))
        if self.left < 0:
            raise InputError("a pickle that unpacks to far more than its size")


def _push(make: Callable) -> Callable:
    return lambda m, arg: m.stack.append(make(m, arg))


_LITERALS = (
    "INT BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8"
)
_OPCODES = {  # those that picklers of protocol 2 and later write
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
    **{f"TUPLE{n}": _push(lambda m, _, n=n: tuple(m.last(n))) for n in (1, 2, 3)},
    "FROZENSET": _push(lambda m, _: frozenset(map(_plain, m.marked()))),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.last(1),
    "POP_MARK": lambda m, _: m.marked(),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "SETITEM": lambda m, _: m.set_items(m.last(2)),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "ADDITEMS": lambda m, _: m.add_items(m.marked()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, arg: m.memo.update({arg: m.stack[-1]})),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _push(lambda m, arg: m.memo[arg])),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    "GLOBAL": lambda m, arg: m.refer(arg),
    "STACK_GLOBAL": lambda m, _: m.refer(" ".join(m.last(2))),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, _: m.call()),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.refer_to_storage(),
}


def run(file: io.BytesIO, storage: Callable | None = None) -> Any:
    """What a pickle makes, and the file is left behind its end.

    Args:
      file: in memory, for a file on disk allocates whatever length it is asked for before it reads.
      storage: (dtype, key, count) -> (count,), the content of a tensor's storage.

    Raises:
      InputError: the pickle refers to, or does, what state dicts have no need of. Nothing is ever imported or run.
      Exception: of any other type where the pickle is damaged.
    """
    machine = _Machine(file, storage)
    for op, arg, _ in pickletools.genops(file):
        if op.name == "STOP":
            return machine.last(1)[0]
        if op.name not in _OPCODES:
            raise InputError(f"pickle opcode {op.name} ({str(arg)[:80]}) is not read")
        _OPCODES[op.name](machine, arg)
