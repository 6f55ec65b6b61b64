"""Pickles and PyTorch's files put together by hand, apart from the code that is tested."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from kd_jax import InputError
from kd_jax.interop import torch_read

MAGIC = 0x1950A86A20F9469CFC6C
BASE = np.arange(24, dtype=np.float32)


def p(value):
    """Opcodes for a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def t(*parts):
    return b"(" + b"".join(parts) + b"t"


def d(**items):
    return b"}(" + b"".join(p(k) + v for k, v in items.items()) + b"u"


def g(module, name):
    return f"c{module}\n{name}\n".encode()


def by_stack(module, name):
    return b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)) + b"\x93"


def call(function, *args):
    return function + t(*args) + b"R"


def held(key, count, kind="Float", *more):
    """A reference to a storage."""
    return t(p("storage"), g("torch", f"{kind}Storage"), p(key), p("cpu"), p(count), *more) + b"Q"


ORDERED = call(g("collections", "OrderedDict"))


def tensor(storage, offset, size, stride, version="_v2", end=b""):
    rest = () if version == "" else (b"\x89", ORDERED, end)
    where = (p(offset), p(size), p(stride))
    return call(g("torch._utils", f"_rebuild_tensor{version}"), storage, *where, *rest)


OK = tensor(held("0", 24), 0, (24,), (1,))


def numpy_dtype(code, order="<"):
    return call(g("numpy", "dtype"), p(code), p(0), p(1)) + p((3, order, None, None, None, -1, -1, 0)) + b"b"


def numpy_array(dtype, shape, raw):
    empty = call(g("numpy._core.multiarray", "_reconstruct"), g("numpy", "ndarray"), p((0,)), p("b"))
    return empty + t(p(1), p(shape), dtype, b"\x89", raw) + b"b"


WHOLE = t(
    OK,
    tensor(held("1", 3, "Long"), 0, (), ()),
    d(opt=g("argparse", "Namespace") + b")\x81" + d(lr=p(0.1)) + b"b", best=numpy_dtype("f8"), k=p([1, "a", (2.5,)])),
    numpy_array(numpy_dtype("f8"), (2,), p(b"x" * 16)),
)  # a bit of everything
STORED = {"0": BASE, "1": np.arange(3)}


def zipped(code, storages, compression=zipfile.ZIP_STORED, **others):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as z:
        z.writestr("a/data.pkl", b"\x80\x02" + code + b".")
        for name, content in others.items():
            z.writestr(f"a/{name}", content)
        for key, array in storages.items():
            z.writestr(f"a/data/{key}", array.tobytes())
        z.writestr("a/version", "3\n")
    return out.getvalue()


def legacy(code, storages):
    """The older form. Its persistent ids have one more part."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(x, 2) for x in (MAGIC, 1001, info))
    head += b"\x80\x02" + code.replace(b"tQ", b"NtQ") + b"." + pickle.dumps(sorted(storages), 2)
    return head + b"".join(struct.pack("<q", a.size) + a.tobytes() for _, a in sorted(storages.items()))


FORMS = {"zip": zipped, "legacy": legacy}


def read(path, content):
    path.write_bytes(content)
    return torch_read.read(path)


def refusal(path, content=None):
    """What is said of a file: one line, which names it."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as e:
        torch_read.read(path)
    message = str(e.value)
    assert message.startswith(f"{path}: ") and message.isprintable() and len(message) < 500, message
    return message.removeprefix(f"{path}: ")


def changed(whole, changes):
    """Bytes at parts of the length put in place of what is there."""
    out = bytearray(whole)
    for where, byte in changes:
        out[int(where * len(out))] = byte
    return bytes(out)


def same(a, b):
    assert type(a) is type(b), (type(a), type(b))
    assert (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


def equal(got, want):
    """What was read is what PyTorch has: types, order, bits."""
    if hasattr(want, "detach"):
        import torch

        assert tuple(want.shape) == got.shape and str(want.dtype) == f"torch.{got.dtype.name}"
        assert want.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() == got.tobytes()
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for k in want:
            equal(got[k], want[k])
    elif isinstance(want, list | tuple):
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            equal(a, b)
    elif isinstance(want, np.ndarray):
        np.testing.assert_array_equal(got, want)
    else:
        assert type(got) is type(want) and got == want
