"""Pickles as plain data: what checkpoints hold comes out as plain data, and what is hostile is refused."""

import argparse
import copyreg
import io
import os
import pickle
import re
import struct
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
    by_stack,
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

SCALAR, RECONSTRUCT = g("numpy._core.multiarray", "scalar"), g("numpy.core.multiarray", "_reconstruct")
MAPPING, SET, OPTIONS = g("collections", "OrderedDict"), g("builtins", "set"), g("argparse", "Namespace")
NEW_OPTIONS = OPTIONS + b")\x81"


def run(code):
    return pickles.run(io.BytesIO(b"\x80\x02" + code + b"."), lambda dtype, key, count: STORED[key])


PLAIN = (None, True, 1.5, "text", {1: 2}, {(1, "a"): [()]}, {4}, b"raw", b"", frozenset([5]))
PLAIN += (0, -1, 255, 65536, -(2**31), 2**63, -(2**70))


@pytest.mark.parametrize(("code", "want"), [
    (NEW_OPTIONS + d(lr=p(0.1), steps=p([1, 2])) + b"b", {"lr": 0.1, "steps": [1, 2]}),
    (ORDERED + b"(" + p("w") + p(1) + b"u" + d(_metadata=ORDERED) + b"b", {"w": 1}),
    (call(MAPPING, p([["a", 1], ["b", 2]])), {"a": 1, "b": 2}),
    (call(g("collections", "Counter"), p({3: 1})), {3: 1}),
    (call(g("torch", "Size"), p((1, 2))), (1, 2)),
    (call(g("torch", "device"), p("cuda"), p(1)), ("cuda", 1)),
    (g("torch", "float32"), "torch.float32"),
    (call(g("torch._utils", "_rebuild_parameter"), p(5), b"\x88", ORDERED), 5),
    (call(g("torch._utils", "_rebuild_parameter_with_state"), p(6), b"\x88", ORDERED, b"}"), 6),
    (call(SCALAR, numpy_dtype("f8"), b"U\x08" + np.float64(2.5).tobytes()), 2.5),  # Python 2's text for bytes
    (p(PLAIN), PLAIN),
])  # fmt: skip
def test_what_checkpoints_hold_becomes_plain(code, want):
    got = run(code)
    assert got == want and type(got).__module__ in ("builtins", "numpy", "kd_jax.data.pickles")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_numbers_and_arrays(protocol):
    x = np.arange(6.0).reshape(2, 3)
    value = {"f": np.float64(3.5), "i": np.int32(-7), "b": np.bool_(True), "a": x, "t": x.T, "e": x[:0], "again": x}
    code = pickle.dumps(value, protocol)
    older = code.replace(b"numpy._core.", b"numpy.core.") if protocol == 2 else code  # numpy before 2
    for spelt in (code, older):
        got = pickles.run(io.BytesIO(spelt))
        for name in "fib":
            assert type(got[name]) is type(value[name]) and got[name] == value[name]
        for name in "ate":
            np.testing.assert_array_equal(got[name], value[name])
        assert got["again"] is got["a"]
    with pytest.raises(InputError, match="big-endian"):
        pickles.run(io.BytesIO(pickle.dumps(x.astype(">f4"), protocol)))


DANGEROUS = [
    *["os system", "posix system", "builtins eval", "builtins exec", "builtins getattr", "builtins __import__"],
    *["__builtin__ eval", "__builtin__ apply", "subprocess Popen", "functools partial", "operator attrgetter"],
    *["copyreg _reconstructor", "collections defaultdict", "collections Counter.update", "numpy load", "torch load"],
    *["numpy.testing._private.utils runstring", "torch os.system", "torch storage.FloatStorage", "torch.hub load"],
    *["torch.storage _load_from_bytes", "torch._utils _rebuild_tensor_v2.__globals__", "torch._utils os.system"],
    *["_codecs encode.__self__", "kd_jax.interop.torch_read read", "torch collections OrderedDict", " "],
]


@pytest.mark.parametrize("name", DANGEROUS)
def test_other_globals_are_refused(tmp_path, name):
    ran, said = tmp_path / "ran", f"refers to {name.replace(' ', '.', 1)}; only tensors and plain containers are read"
    for refer in (g, by_stack):
        reference = refer(*name.rsplit(" ", 1))
        for form in FORMS.values():
            assert refusal(tmp_path / "net.pth", form(call(reference, p(f"touch {ran}")), {})) == said
        with pytest.raises(InputError, match=re.escape(said)):
            run(d(model=ORDERED, opt=reference))  # a mention is enough
    assert not ran.exists()


def evil(*reduced):
    return type("Evil", (), {"__reduce_ex__": lambda self, protocol: reduced})()


@pytest.mark.parametrize("protocol", range(6))
def test_what_pickle_would_run_does_not_run(tmp_path, protocol):
    ran, path = tmp_path / "ran", tmp_path / "net.pth"
    touch = f"open({str(ran)!r}, 'w').close()"
    for reduced in ((os.system, (f"touch {ran}",)), (eval, (touch,)), (exec, (touch,))):
        code = pickle.dumps({"model": {"w": evil(*reduced)}}, protocol)
        pickle.loads(code)
        assert ran.exists()  # so the pickle is one that works
        ran.unlink()
        inner = code[:-1] if protocol < 2 else code[2:-1]
        for form in FORMS.values():
            assert ("refers to " if protocol >= 1 else "pickle opcode ") in refusal(path, form(inner, {}))
        refusal(path, code)
        assert not ran.exists()


def test_other_ways_to_a_function(tmp_path):
    ran = tmp_path / "ran"
    shell = p(f"touch {ran}")
    ways = {"INST": b"(" + shell + b"ios\nsystem\n", "EXT1": call(b"\x82\xf0", shell)}
    ways |= {"os.system": b"(cos\nsystem\n" + shell + b"o"}
    copyreg.add_extension("os", "system", 240)  # EXT1's number
    try:
        for said, code in ways.items():
            pickle.loads(b"\x80\x02" + code + b".")
            assert ran.exists()
            ran.unlink()
            for form in FORMS.values():
                assert said in refusal(tmp_path / "net.pth", form(code, {}))
            assert not ran.exists()
    finally:
        copyreg.remove_extension("os", "system", 240)
    for code in (b"Pos.system\n", p("os.system") + b"Q", t(p("module"), g("os", "system")) + b"Q", held("../0", 1)):
        for form in FORMS.values():
            refusal(tmp_path / "net.pth", form(code, {}))


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


def test_deep_nests_cycles_and_large_indices_are_read():
    deep = run(b"]" * 100_000 + b"a" * 99_999)
    for _ in range(99_999):
        (deep,) = deep
    assert deep == []
    cycle = run(b"]q\x00h\x00a")
    assert cycle[0] is cycle
    last = struct.pack("<I", 2**32 - 1)
    assert run(p(7) + b"r" + last + b"0j" + last) == 7


@pytest.mark.parametrize("where", [
    *[(0, (25,), (1,)), (1, (24,), (1,)), (24, (), ()), (24, (1,), (1,)), (0, (5, 6), (6, 1)), (0, (4, 6), (7, 1))],
    *[(0, (2,), (24,)), (-1, (2,), (1,)), (23, (2,), (-1,)), (0, (-1,), (1,)), (0, (-2, -3), (1, 1))],
    *[(0, (2,), (2**63,)), (0, (2, 2), (2**62 - 1, 1)), (2**61, (2,), (1,)), (0, (2, 2), (1,)), (0, (2,), (1, 1))],
    *[(0, (2**40,), (0,)), (0, (2**61, 2**61), (0, 0)), (0, (1,) * 65, (1,) * 65)],
], ids=str)  # fmt: skip
def test_no_view_leaves_its_storage(where):
    for version in ("", "_v2"):
        with pytest.raises(InputError, match="a tensor "):
            run(tensor(held("0", 24), *where, version))


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 30)), max_size=3))
@settings(max_examples=200)
def test_views_are_right_or_refused(offset, dims):
    """What is given out is inside the storage and has the right elements, whatever is asked for."""
    size, stride = (tuple(d[k] for d in dims) for k in (0, 1))
    grid = offset + sum((x * s for x, s in zip(np.indices(size), stride, strict=True)), np.zeros(size, int))
    if min(stride, default=0) >= 0 and (0 in size or grid.max() < 24):
        view = run(tensor(held("0", 24), offset, size, stride))
        assert view.shape == size and not view.flags.writeable
        np.testing.assert_array_equal(view, STORED["0"][np.clip(grid, 0, 23)])
    else:
        with pytest.raises(InputError):
            run(tensor(held("0", 24), offset, size, stride))


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
