"""Pickles: what checkpoints hold comes out as plain data, no function runs, no view leaves its storage."""

import copyreg
import io
import os
import pickle
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_jax import InputError
from kd_jax.interop import pickles
from tests.interop.assembler import (
    FORMS,
    ORDERED,
    STORED,
    by_stack,
    call,
    d,
    g,
    held,
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
