"""PyTorch's files and safetensors read without PyTorch: forms, sizes, and what is said of other files."""

import io
import pickle
import re
import struct
import tarfile
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from kd_jax import InputError
from kd_jax.interop import torch_read, torch_write
from tests.interop.assembler import (
    BASE,
    FORMS,
    MAGIC,
    OK,
    ORDERED,
    STORED,
    WHOLE,
    by_stack,
    changed,
    d,
    g,
    held,
    legacy,
    p,
    read,
    refusal,
    same,
    t,
    tensor,
    zipped,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def test_types(path, form):
    kinds = {"Float": "f4", "Double": "f8", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1"}
    for kind, dtype in (kinds | {"Byte": "u1", "Bool": "?", "BFloat16": ml_dtypes.bfloat16}).items():
        x = np.arange(6).astype(dtype)
        same(read(path, form(tensor(held("0", 6, kind), 0, (2, 3), (3, 1)), {"0": x})), x.reshape(2, 3))
    x = np.array([1, 65535, 7], np.uint16)  # has no storage class
    code = tensor(held("0", 6, "Untyped"), 0, (3,), (1,), "_v3", g("torch", "uint16"))
    for spelt in (code, code.replace(b"ctorch\nUnt", b"ctorch.storage\nUnt")):
        same(read(path, form(spelt, {"0": x.view(np.uint8)})), x)


@pytest.mark.parametrize("version", ["", "_v2"])
def test_views(path, form, version):
    places = [(0, (4, 6), (6, 1)), (1, (6, 3), (1, 6)), (23, (), ()), (2, (5,), (0,)), (99, (0, 3), (3, 1))]
    code = t(*[tensor(held("7", 24), *where, version) for where in places])
    whole, strided, single, repeated, empty = views = read(path, form(code, {"7": BASE}))
    same(whole, BASE.reshape(4, 6))
    np.testing.assert_array_equal(strided, BASE[1 + np.arange(6)[:, None] + 6 * np.arange(3)])
    same(single, np.array(23, np.float32))
    assert repeated.tolist() == [2] * 5 and empty.shape == (0, 3)
    assert np.shares_memory(whole, strided) and not any(view.flags.writeable for view in views)


def test_metadata_of_safetensors(path):
    got = read(path, save({"w": BASE}, {"format": "pt", "model": "shadow"}))
    assert got.keys() == {"format", "model"} and got["format"] == "pt"
    same(got["model"]["w"], BASE)
    assert read(path, save({"w": BASE})).keys() == {"model"}


def test_zips_that_unpack_to_more(path):
    large = {"0": np.zeros(1 << 20, np.float32)}
    code = tensor(held("0", 1 << 20), 0, (1 << 20,), (1,))
    assert read(path, zipped(code, large)).nbytes == 4 << 20
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):  # bzip2 unpacks all at once, whatever size it claims
        raw = bytearray(zipped(code, large, method))
        assert "compressed entries" in refusal(path, bytes(raw))
        for entry in re.finditer(b"PK\x01\x02", bytes(raw)):
            at = entry.start() + 20
            raw[at + 4 : at + 8] = raw[at : at + 4]  # its size unpacked: that of the packed
        assert "compressed entries" in refusal(path, bytes(raw))
    raw = bytearray(zipped(code, large))
    directory = raw.rindex(b"PK\x01\x02", 0, raw.rindex(b"PK\x01\x02"))  # of the storage: its sizes, made larger
    assert raw[directory + 46 :].startswith(b"a/data/0")
    raw[directory + 20 : directory + 28] = struct.pack("<II", 1 << 31, 1 << 31)
    assert "larger than the file" in refusal(path, bytes(raw))
    raw[directory + 24 : directory + 28] = struct.pack("<I", 4 << 20)
    assert "compressed" in refusal(path, bytes(raw))
    out = io.BytesIO(zipped(code, large))
    with zipfile.ZipFile(out, "a") as z:
        z.filelist += [z.getinfo("a/data/0")] * 3  # entries that lie over one another
        z.writestr("a/more", b"")
    assert "larger than the file" in refusal(path, out.getvalue())


@pytest.mark.parametrize("count", [25, 2**40, 2**62, -1, -(2**40)])
def test_storages_that_do_not_fit(path, count):
    code = tensor(held("0", count), 0, (1,), (1,))
    assert "storage 0 is shorter" in refusal(path, zipped(code, {"0": BASE}))
    assert ("another length" if count == 25 else "larger than the file") in refusal(path, legacy(code, {"0": BASE}))


def test_storages_that_are_not_there(path):
    double = tensor(held("0", 24, "Double"), 0, (1,), (1,))
    assert "storage 0 is shorter" in refusal(path, zipped(double, {"0": BASE}))
    assert "two sizes or types" in refusal(path, legacy(t(OK, double), {"0": np.zeros(99)}))
    assert "'a/data/1'" in refusal(path, zipped(tensor(held("1", 24), 0, (1,), (1,)), {"0": BASE}))
    many = t(*[tensor(held(str(k), 400), 0, (1,), (1,)) for k in range(9)])  # each alone would fit
    assert "larger than the file" in refusal(path, legacy(many, {"0": np.zeros(400, np.float32)}))
    whole = legacy(OK, {"0": BASE})
    deep = b")" + b"\x85" * 20_000
    for keys in (*map(p, ([], ["1"], ["0", "1"], "0", None, {"0": 1}, [("0",)], [["0"]])), b"]" + deep + b"a"):
        wrong = whole.replace(pickle.dumps(["0"], 2), b"\x80\x02" + keys + b".")
        assert "the list of storages is not that" in refusal(path, wrong)
    assert "another length" in refusal(path, whole.replace(struct.pack("<q", 24), struct.pack("<q", 23)))


def test_a_shared_storage_is_read_once(path, monkeypatch):
    reading, names = zipfile.ZipFile.read, []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda z, name: names.append(name) or reading(z, name))
    a, b = read(path, zipped(t(OK, tensor(held("0", 24), 5, (2,), (1,))), {"0": BASE}))
    assert names == ["a/data.pkl", "a/data/0"] and np.shares_memory(a, b)


@pytest.mark.parametrize("code", [
    *[b"\x8e" + struct.pack("<Q", count) for count in (2**32, 2**62)],
    *[code + struct.pack("<Q", 2**40) for code in (b"\x95", b"\x96")],
    *[b"T" + struct.pack("<i", 2**31 - 1), b"X" + b"\xff" * 4],
])  # fmt: skip
def test_a_claimed_length_allocates_nothing(path, form, code):
    tracemalloc.start()
    try:
        assert "damaged" in refusal(path, form(code + b"x", {}))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


MODULE = g("models.resnet", "ResNet") + b")\x81" + d(training=b"\x88", _parameters=ORDERED) + b"b"
HINT = (
    "refers to models.resnet.ResNet; only tensors and plain containers are read "
    "(it holds a whole module: save model.state_dict() instead)"
)
FOREIGN = b'{"w":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]}}      '
WEB_PAGE = "a web page, not the file itself; its download failed"
NEITHER = "neither a PyTorch nor a safetensors file (it begins with b"
OTHER_PICKLE = "a pickle, but not one that torch.save wrote"


@pytest.mark.parametrize(("content", "said"), [
    (b"", "the file is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "a git-LFS pointer, not the file itself"),
    *[(page, WEB_PAGE) for page in (b"\n <!DOCTYPE html>\n", b"<html><body>404", b"<?xml version='1.0'?><Error/>")],
    *[(other, NEITHER) for other in (b"Not Found", b"\x89HDF\r\n\x1a\n", b"\x00" * 600, b"{}", b"\x1f\x8b\x08")],
    *[(pickle.dumps(value, 2), OTHER_PICKLE) for value in (MAGIC + 1, {"a": 1}, None)],
    (zipped(OK, {}, **{"constants.pkl": b"x"}), "a TorchScript archive; save model.state_dict() instead"),
    (zipped(OK, {}, **{"code/__torch__.py": b"x"}), "a TorchScript archive; save model.state_dict() instead"),
    (zipped(OK, {}).replace(b"data.pkl", b"data.npy"), "a zip, but not one that torch.save wrote"),
    (zipped(OK, {"0": BASE}, byteorder=b"big"), "saved on a big-endian machine"),
    (zipped(MODULE, {}), HINT),
    (legacy(MODULE, {}), HINT),
    (zipped(by_stack("\x1b[31m", "x\ny"), {}), "refers to ?[31m.x?y; only tensors and plain containers are read"),
    (struct.pack("<Q", len(FOREIGN)) + FOREIGN + b"xxx", "holds tensors of type F8_E4M3, which are not read"),
    (save({"w": BASE}, {"kd_jax": "{"}), "truncated or damaged (JSONDecodeError: "),
])  # fmt: skip
def test_what_the_file_is_instead(path, content, said):
    assert refusal(path, content).startswith(said)


def test_what_is_no_file(path, monkeypatch):
    assert refusal(path) == "no such file"
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    assert refusal(path).startswith("a tar, as PyTorch wrote before 0.1.10")
    assert refusal(path.parent) == "a folder, not a file"

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(epath.Path(path)), "open", refuse)
    assert refusal(path) == "cannot be read (Permission denied)"


@pytest.fixture(scope="module", params=["zip", "legacy", "torch", "safetensors"])
def good(request, tmp_path_factory):
    """A place to write bad files, and the content of a good one."""
    path = tmp_path_factory.mktemp("fuzz") / "net"
    if request.param in FORMS:
        path.write_bytes(FORMS[request.param](WHOLE, STORED))
    else:
        write = getattr(torch_write, f"write_{request.param}")
        write(path, {"w": BASE.reshape(4, 6), "n": np.arange(3)}, {"network": {"mean": [0.5]}})
    torch_read.read(path)
    return path, path.read_bytes()


def test_every_cut_is_refused(good):
    path, whole = good
    lengths = {*range(0, len(whole), 1 + len(whole) // 150), *range(9), *range(len(whole) - 40, len(whole))}
    for length in sorted(lengths):
        refusal(path, whole[:length])


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=100)
def test_flipped_bytes(good, changes):
    """Damaged bytes may read as something; they may raise nothing but InputError."""
    path, whole = good
    try:
        read(path, changed(whole, changes))
    except InputError as e:
        assert str(e).startswith(f"{path}: ") and str(e).isprintable()
