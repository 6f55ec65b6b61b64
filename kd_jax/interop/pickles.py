"""PyTorch's pickles. They hold tensors as views of storages; the storages are outside of the pickle."""

import io
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from kd_jax.data.pickles import Unpickler, counted, plain
from kd_jax.typing import InputError

STATE_DICT = "save model.state_dict() instead"
_EXPANDED = 1 << 24  # elements of a view with more elements than its storage: a stride of 0 makes any size of one

CLASSES = {  # of PyTorch's storages, and the type of their elements
    **{"Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16, "Bool": np.bool_},
    **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8},
}
_STORAGES = {
    **{f"torch.{name}Storage": np.dtype(kind) for name, kind in CLASSES.items()},
    **{f"{module}.UntypedStorage": np.dtype(np.uint8) for module in ("torch", "torch.storage")},
}
_TYPES = {f"torch.{np.dtype(t).name}": np.dtype(t) for t in (*CLASSES.values(), np.uint16, np.uint32, np.uint64)}


def _tensor(storage: np.ndarray, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> np.ndarray:
    """A read-only view, after a check that every element lies in its storage."""
    one_for_each = len(size) == len(stride) <= 64  # else the next line could be a long one
    if not one_for_each or not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
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
    return _tensor(storage.view(_TYPES[plain(dtype)]), offset, size, stride, grad, hooks, metadata)


class _TorchUnpickler(Unpickler):
    """storage: (dtype, key, count) -> (count,), the content of a tensor's storage; None where there are none."""

    functions = {
        **Unpickler.functions,
        "torch Size": lambda sizes=(): tuple(counted(sizes)),
        "torch device": lambda *parts: parts,
        "torch._utils _rebuild_tensor": _tensor,
        "torch._utils _rebuild_tensor_v2": _tensor,
        "torch._utils _rebuild_tensor_v3": _tensor_of_bytes,
        "torch._utils _rebuild_parameter": lambda data, *_: data,
        "torch._utils _rebuild_parameter_with_state": lambda data, *_: data,
    }
    types = {**Unpickler.types, **{" ".join(name.rsplit(".", 1)): name for name in (*_STORAGES, *_TYPES)}}
    contents = "tensors and plain containers"

    def __init__(self, file: io.BytesIO, storage: Callable | None):
        super().__init__(file)
        self.storage = storage

    def find_class(self, module: str, name: str) -> str:
        try:
            return super().find_class(module, name)
        except InputError as e:
            hint = f" (it holds a whole module: {STATE_DICT})" if b"_parameters" in self.content else ""
            raise InputError(f"{e}{hint}") from None

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The storage that a persistent id names. The older form has one more part, which is None unless the storage is
        a part of another."""
        match pid:
            case ("storage", str() as kind, str() as key, _, int() as count, *rest) if (
                self.storage and kind in _STORAGES and rest in ([], [None])
            ):
                return self.storage(_STORAGES[kind], key, count)
        raise InputError("a storage in a form that is not read")


def run(file: io.BytesIO, storage: Callable | None = None) -> Any:
    """The object in the pickle that begins at the file's position; the position moves behind its end.

    Args:
      file: in memory, for a file on disk allocates whatever length it is asked for before it reads.
      storage: (dtype, key, count) -> (count,), the content of a tensor's storage.

    Raises:
      InputError: the pickle refers to, or does, what state dicts have no need of. Nothing is ever imported or run.
      Exception: of any other type where the pickle is damaged.
    """
    return _TorchUnpickler(file, storage).load()
