"""Pickles read as plain data: numbers, text, containers and numpy arrays. No code in them runs.

A pickle is a program, and an allow-list of names alone does not make it harmless. Python's unpickler in C sets
attributes of whatever the list allows (BUILD), takes gigabytes for a memo index of five bytes, and overflows the stack
with the hash of a deeply nested key. `Unpickler` therefore derives from the form that Python's library has in Python:
its memo is a dict, and each opcode is a function in a table. It reads a subset of the opcodes, and those that call,
change or hash a value check it first.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from kd_jax.typing import InputError

_NUMPY = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()
_COUNTED = (str, bytes, list, tuple, dict, set, frozenset)


class Global(str):
    """MODULE NAME of a function that a pickle may call. It cannot reach the function itself."""


class Options(dict):
    """Stands for argparse.Namespace, in which training scripts keep their options."""


def plain(value: Any) -> Any:
    """A value whose hash is safe to take, that is no deep nest of tuples."""
    parts = value if isinstance(value, tuple) and len(value) <= 16 else (value,)
    if not all(part is None or isinstance(part, str | int | float | bytes | np.generic) for part in parts):
        raise InputError("a key or name that is no plain value")
    return value


def counted(values: Any) -> Any:
    """A container, or InputError. Only these are copied, for `spend` counts their items; a small file can hold an array
    of very many elements."""
    if not isinstance(values, _COUNTED):
        raise InputError("a container made of what is none")
    return values


def _mapping(items: Any = ()) -> dict:
    return {plain(k): v for k, v in (items.items() if isinstance(items, dict) else counted(items))}


def _bytes(value: Any = b"", encoding: Any = "latin1") -> bytes:
    """Bytes, or the text as which older pickles keep them. Never bytes(n), which allocates n."""
    if encoding not in ("latin1", "latin-1") or not isinstance(value, str | bytes):
        raise InputError("bytes in a form that is not read")
    return value.encode("latin1") if isinstance(value, str) else value


def _dtype(code: Any, *_: Any) -> np.dtype:
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if plain(code) not in _NUMPY:
        raise InputError(f"a numpy type {code!r}; only bool, int, uint and float are read")
    return np.dtype(f"<{code}")


def _array(dtype: np.dtype, raw: Any, shape: tuple = (), fortran: bool = False) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise InputError("a numpy array without a type")
    return np.ndarray(shape, dtype, _bytes(raw), order="F" if fortran else "C")  # raises where raw is short


_BUILTINS = {
    "bytes": _bytes,
    "set": lambda items=(): set(map(plain, counted(items))),
    "frozenset": lambda items=(): frozenset(map(plain, counted(items))),
}
_ARRAYS = {
    "multiarray scalar": lambda dtype, raw: _array(dtype, raw)[()],
    "multiarray _reconstruct": lambda *_: np.zeros(0),  # BUILD fills it
    "numeric _frombuffer": lambda raw, dtype, shape, order: _array(dtype, raw, shape, order == "F"),
}


class Unpickler(pickle._Unpickler):
    """Reads one pickle from a file in memory, `load()`, and leaves the file behind its end.

    functions: "MODULE NAME" -> what is called for it. types: "MODULE NAME" -> the text that stands for it. contents:
    what is read, for errors. `load` raises InputError where a pickle refers to, or does, anything else, and errors of
    any other type where it is damaged. Memory is taken in proportion to the size of the file.
    """

    functions: Mapping[str, Callable] = {
        "collections OrderedDict": _mapping,
        "collections Counter": _mapping,
        "argparse Namespace": lambda: Options(),
        "numpy dtype": _dtype,
        "_codecs encode": _bytes,
        **{f"{m} {name}": make for m in ("builtins", "__builtin__") for name, make in _BUILTINS.items()},
        **{f"numpy.{core}.{name}": make for core in ("core", "_core") for name, make in _ARRAYS.items()},
    }
    types: Mapping[str, str] = {"numpy ndarray": "numpy.ndarray"}
    contents = "numpy arrays and plain containers"

    def __init__(self, file: io.BytesIO, *, encoding: str = "latin1"):
        super().__init__(file, encoding=encoding)
        self.content = file.getvalue()
        self.unfilled: dict[int, np.ndarray] = {}  # arrays that BUILD has still to fill
        # what calls may copy; else one list, copied by each of many calls, makes gigabytes
        self.left = 2 * len(self.content)

    def load(self) -> Any:
        """What the pickle makes."""
        value = super().load()
        if self.unfilled:
            raise InputError("a numpy array without content")
        return value

    def find_class(self, module: str, name: str) -> str:
        """What stands for a global, or InputError."""
        spelled = f"{module} {name}"
        if spelled in self.functions:
            return Global(spelled)
        if spelled in self.types:
            return self.types[spelled]
        raise InputError(f"refers to {spelled.replace(' ', '.', 1)[:100]}; only {self.contents} are read")

    def spend(self, values: Iterable) -> None:
        """Count the items that are about to be copied."""
        self.left -= sum(len(v) for v in values if isinstance(v, _COUNTED))
        if self.left < 0:
            raise InputError("a pickle that unpacks to far more than its size")

    def top(self, *kinds: type) -> Any:
        """The value on top of the stack, of one of these types."""
        if not isinstance(self.stack[-1], kinds):
            raise InputError("a pickle that changes what is no container")
        return self.stack[-1]

    def _call(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise InputError("a pickle that calls what is no function")
        self.spend(args)
        value = self.functions[function](*args)
        if function.endswith(" _reconstruct"):
            self.unfilled[id(value)] = value
        self.append(value)

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.top(np.ndarray, np.dtype, dict)
        self.spend(state if isinstance(state, tuple) else [state])
        if isinstance(target, np.ndarray):
            if self.unfilled.pop(id(target), None) is None:
                raise InputError("a pickle that changes what is no container")
            _, shape, dtype, fortran, raw = state
            array = _array(dtype, raw, shape, fortran)  # checks all of them
            target.__setstate__((1, array.shape, array.dtype, bool(fortran), array.tobytes("A")))
        elif isinstance(target, np.dtype) and state[1] not in ("<", "|", b"<", b"|"):
            raise InputError("a numpy type in a form that is not read, such as big-endian")
        elif isinstance(target, Options):  # another dict's state is no content, such as a state dict's _metadata
            target.update(_mapping(state))

    def _extend(self, items: list) -> None:
        self.top(list).extend(items)

    def _set_items(self, items: list) -> None:
        self.top(dict).update(_mapping(list(zip(items[::2], items[1::2], strict=True))))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _read_bytes8(self) -> None:
        """A bytearray, as which protocol 5 keeps what can be written to."""
        length = int.from_bytes(self.read(8), "little")
        self.append(self.read(length))
        if len(self.stack[-1]) != length:
            raise EOFError("fewer bytes than the pickle says")

    def _add_items(self, items: list) -> None:
        self.top(set).update(map(plain, items))

    def _frozen(self, items: list) -> None:
        self.append(frozenset(map(plain, items)))


_UNCHANGED = (  # opcodes as Python has them
    "PROTO FRAME STOP MARK POP POP_MARK INT BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING "
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 NONE NEWTRUE NEWFALSE EMPTY_DICT "
    "EMPTY_LIST EMPTY_SET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE GLOBAL "
    "STACK_GLOBAL BINPERSID"
)
_CHECKED: Mapping[str, Callable[[Unpickler], None]] = {
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Unpickler._call),
    "BUILD": Unpickler._build,
    "APPEND": lambda u: u._extend([u.stack.pop()]),
    "APPENDS": lambda u: u._extend(u.pop_mark()),
    "SETITEM": Unpickler._set_item,
    "SETITEMS": lambda u: u._set_items(u.pop_mark()),
    "ADDITEMS": lambda u: u._add_items(u.pop_mark()),
    "FROZENSET": lambda u: u._frozen(u.pop_mark()),
    "BYTEARRAY8": Unpickler._read_bytes8,
}


def _refusal(name: str) -> Callable[[Unpickler], None]:
    def refuse(unpickler: Unpickler) -> None:
        raise InputError(f"pickle opcode {name} is not read")

    return refuse


Unpickler.dispatch = {  # picklers of protocol 2 and later write no others
    **{ord(op.code): _refusal(op.name) for op in pickletools.opcodes},
    **{getattr(pickle, n)[0]: pickle._Unpickler.dispatch[getattr(pickle, n)[0]] for n in _UNCHANGED.split()},
    **{getattr(pickle, n)[0]: load for n, load in _CHECKED.items()},
}
