"""Pickles that are hostile, damaged or random: refused or plain data, and no harm is done."""

import argparse
import pickle
import time
from collections import Counter, OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_jax import InputError
from kd_jax.interop import pickles
from tests.interop.assembler import (
    FORMS,
    OK,
    ORDERED,
    STORED,
    WHOLE,
    call,
    changed,
    d,
    g,
    held,
    numpy_array,
    numpy_dtype,
    p,
    refusal,
    t,
    tensor,
)
from tests.interop.test_pickles import MAPPING, NEW_OPTIONS, OPTIONS, RECONSTRUCT, SCALAR, SET, run

DEEP = b")" + b"\x85" * 20_000  # Python hashes it by recursion, and a deeper one ends the process
LONG = tensor(held("0", 24), 0, (1 << 24,), (0,))
MANY = b"".join(p(n) for n in range(2000))
REFUSED = {  # what is said, and what of
    "a numpy type '.*; only bool, int, uint and float": {
        "text": numpy_dtype("U5"),
        "void": numpy_dtype("V8"),
        "record": numpy_dtype("O8,f4"),
        "subarray": numpy_dtype("(9999999,)f8"),
        "object": numpy_array(numpy_dtype("O8"), (1,), p([None])),
    },
    "a numpy type in a form": {"order": numpy_dtype("f8", "|O"), "big-endian": numpy_dtype("f8", ">")},
    "a numpy array without a type": {"a name": call(SCALAR, p("O"), p("x"))},
    "without content": {"never built": t(call(RECONSTRUCT, g("numpy", "ndarray")))},
    "bytes in a form": {
        "a count": call(g("__builtin__", "bytes"), p(2**45)),
        "a count to encode": call(g("_codecs", "encode"), p(2**45), p("latin1")),
        "another codec": call(g("_codecs", "encode"), p("x"), p("zip")),
    },
    "calls what is no function": {
        "a dict": call(b"}", p(1)),
        "text": call(p("os system"), p(1)),
        "text of a function": call(p("collections OrderedDict"), b")"),
        "a storage class": call(g("torch", "FloatStorage"), p(2**50)),
        "ndarray": call(g("numpy", "ndarray"), p(2**50)),
        "with a list": MAPPING + b"]R",
    },
    "changes what is no container": {
        "a function": MAPPING + d(__init__=p(1)) + b"b",
        "a class": OPTIONS + t(b"N", d(x=p(1))) + b"b",
        "a tensor": OK + d(shape=p(1)) + b"b",
        "a storage": held("0", 24) + d(size=p(1)) + b"b",
        "item of a list": b"]" + p(0) + p(1) + b"s",
        "a tuple": b")" + p(0) + b"a",
    },
    "a key or name that is no plain value": {
        "deep": b"}" + DEEP + b"Ns",
        "deep of many": b"}(" + DEEP + b"Nu",
        "wide": b"}(" + b"N" * 17 + b"tNs",
        "in a set": b"\x8f(" + DEEP + b"\x90",
        "in a called set": call(SET, b"]" + DEEP + b"a"),
        "in a frozenset": b"(" + DEEP + b"\x91",
        "in a mapping": call(MAPPING, b"](" + t(DEEP, p(1)) + b"e"),
        "in options": NEW_OPTIONS + b"](" + t(DEEP, p(1)) + b"eb",
        "2**60 steps": b"})" + b"q\x00h\x00\x86" * 60 + b"Ns",
        "an array": b"}" + OK + b"Ns",
        "a numpy type": call(g("numpy", "dtype"), DEEP),
        "a torch type": tensor(held("0", 24), 0, (1,), (1,), "_v3", DEEP),
    },
    "a storage in a form": {
        "deep key": t(p("storage"), g("torch", "FloatStorage"), DEEP, p("cpu"), p(1)) + b"Q",
        "deep class": t(p("storage"), DEEP, p("0"), p("cpu"), p(1)) + b"Q",
        "no class": t(p("storage"), g("numpy", "dtype"), p("0"), p("cpu"), p(1)) + b"Q",
        "part of another": held("0", 24, "Float", t(p("8"), p(0), p(24))),
    },
    "unpacks to far more than its size": {
        "tuples": b"]q\x00(" + MANY + b"e0" + call(g("torch", "Size"), b"h\x00") * 2000,
        "options": b"}q\x00(" + MANY + b"u0" + (NEW_OPTIONS + b"h\x00b") * 2000,
        "sets": b"(" + MANY + b"\x91q\x000" + call(SET, b"h\x00") * 2000,
    },
    "a container made of what is none": {
        "sizes": call(g("torch", "Size"), LONG),
        "items": call(MAPPING, LONG),
        "a set": call(SET, LONG),
    },
    "a tensor with a bad offset, size or stride": {
        "an array as size": call(g("torch._utils", "_rebuild_tensor"), held("0", 24), p(0), LONG, LONG),
        **{f"{bad!r} as offset": tensor(held("0", 24), bad, (1,), (1,)) for bad in (1.0, True, "1", None, ())},
        **{f"{bad!r} as size": tensor(held("0", 24), 0, (bad,), (1,)) for bad in (1.0, True, "1", None, ())},
        **{f"{bad!r} as stride": tensor(held("0", 24), 0, (1,), (bad,)) for bad in (1.0, True, "1", None, ())},
    },
    "negated view": {"neg": tensor(held("0", 24), 0, (2,), (1,), "_v2", d(neg=b"\x88"))},
}
CASES = [pytest.param(said, code, id=f"{said}-{name}") for said, of in REFUSED.items() for name, code in of.items()]


@pytest.mark.parametrize(("said", "code"), CASES)
def test_what_is_hostile_is_refused(said, code):
    start = time.perf_counter()
    with pytest.raises(InputError, match=said):
        run(code)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(("code", "error"), [
    (numpy_array(numpy_dtype("f8"), (2,), p(b"x" * 15)), TypeError),
    (numpy_array(numpy_dtype("f8"), (2**40, 2**20), p(b"x" * 16)), ValueError),
    (numpy_array(numpy_dtype("f8"), (-1, -2), p(b"x" * 16)), ValueError),
    (call(g("torch._utils", "_rebuild_tensor"), p(1)), TypeError),
    (tensor(b"}", 0, (1,), (1,)), AttributeError),
    (tensor(p("0"), 0, (1,), (1,)), AttributeError),
    (b"0", IndexError),
    (b"]]\x93", pickle.UnpicklingError),
    (b"Nt", IndexError),
    (b"h\x05", pickle.UnpicklingError),
    (b"}(NNNu", ValueError),
    (b"\xff", KeyError),
])  # fmt: skip
def test_what_is_damaged_raises(tmp_path, code, error):
    with pytest.raises(error):
        run(code)
    assert f"truncated or damaged ({error.__name__}: " in refusal(tmp_path / "net.pth", FORMS["zip"](code, STORED))


def test_nothing_survives_a_run():
    """None changes what later ones, or this process, see."""

    def functions():
        return {
            k: (f, getattr(f, "__dict__", None), getattr(f, "__defaults__", 0))
            for k, f in pickles._TorchUnpickler.functions.items()
        }

    before = functions()
    for name in ("OrderedDict", "Counter"):
        with pytest.raises(InputError):
            run(g("collections", name) + t(b"N", d(__init__=p(1), update=p(2))) + b"b")
    options = run(NEW_OPTIONS + d(__class__=p(1), update=p(2), __dict__=b"}") + b"b")
    assert options == {"__class__": 1, "update": 2, "__dict__": {}} and callable(options.update)
    assert run(ORDERED + d(update=p(1)) + b"b") == {} != run(ORDERED + p("leak") + b"Ns")
    assert run(ORDERED) == {} and run(b"}") == {} and run(b"]") == []
    assert OrderedDict(a=1) == Counter("a") == vars(argparse.Namespace(a=1)) == {"a": 1} and functions() == before


DATA = (type(None), int, float, str, bytes, list, tuple, dict, set, frozenset, np.ndarray, np.generic, np.dtype)


def survive(code):
    """A program may leave plain data or raise; it may not take the process with it, or its memory."""
    try:
        left = [run(code)]
    except Exception as e:
        assert not isinstance(e, MemoryError)
        return
    visited = set()
    while left:
        value = left.pop()
        assert isinstance(value, DATA), type(value)
        if isinstance(value, list | tuple | dict | set | frozenset) and id(value) not in visited:
            visited.add(id(value))
            left += [*value, *(value.values() if isinstance(value, dict) else ())]


@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=200)
def test_flipped_opcodes(changes, cut):
    code = changed(WHOLE, changes)
    a, b = sorted(int(c * len(code)) for c in cut or (0, 0))
    survive(code[:a] + code[b:])


WORDS = [
    *[bytes([b]) for b in b"()]}\x8f\x85\x86\x87t0N\x88\x89Rbaesu\x81\x90\x91\x94\x93Q2oi1"],
    *[b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"K\x05", b"K\x00", p("0"), p("storage"), p("cpu"), p("f8"), p("latin1")],
    *[g(*name.split(" ")) for name in [*pickles._TorchUnpickler.functions, *pickles._TorchUnpickler.types]],
    *[OK, ORDERED, held("0", 24), p((1, 2)), p([1]), p({1: 2}), numpy_dtype("f4"), DEEP[:50], p(b"xx")],
]


@given(words=st.lists(st.sampled_from(WORDS), max_size=30))
@settings(max_examples=300)
def test_any_program_is_survived(words):
    survive(b"".join(words))
