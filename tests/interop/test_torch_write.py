"""PyTorch's files and safetensors written without PyTorch, for our own reader, for torch and for the library."""

import json
import os
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import safetensors
from etils import epath

from kd_jax.interop import torch_read
from kd_jax.interop.torch_write import write_safetensors, write_torch
from tests.interop.assembler import BASE, equal, same

ABOUT = {
    "network": {"name": "resnet8", "num_classes": 10, "mean": [0.5, 0.25, -1.0], "wide": 2**40, "note": "é", "n": {}}
}
WRITERS = [write_torch, write_safetensors]


@pytest.fixture
def tensors(rng):
    wide = rng.normal(size=(4, 6)).astype(np.float32)
    return {
        "w": wide,
        "transposed": wide.T,
        "every other": wide[:, ::2],
        "one row": wide.reshape(2, 2, 6)[:1, :1],  # sizes of 1 may have any stride
        "zero-dim": np.float32(4).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
        "count": np.array(2**40, np.int64),
        "half": wide.astype(ml_dtypes.bfloat16),
        "é": np.array([True, False, True]),
    }


@pytest.mark.parametrize("write", WRITERS)
def test_round_trip(tmp_path, tensors, write):
    path = tmp_path / "any name"
    write(path, tensors, ABOUT)
    got = torch_read.read(str(path))
    assert got["kd_jax"] == ABOUT and set(got["model"]) == set(tensors)
    for name, array in tensors.items():
        same(got["model"][name], np.asarray(array))
        assert not got["model"][name].flags.writeable
    assert os.listdir(tmp_path) == ["any name"]


@pytest.mark.parametrize("write", WRITERS)
def test_the_same_content_gives_the_same_bytes(tmp_path, tensors, write):
    """However the arrays lie in memory, and whichever equal texts are one object."""
    text = "one object"
    write(tmp_path / "a", tensors, {"x": text, "y": (text, text)})
    copied = {name: np.array(array, order="C") for name, array in tensors.items()}
    for _ in range(8):  # a library that orders by a hash with a random seed may happen to agree once
        write(str(tmp_path / "b"), copied, json.loads('{"x": "one object", "y": ["one object", "one object"]}'))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_zip_keeps_order_and_aligns(tmp_path, tensors):
    path = tmp_path / "net.pth"
    write_torch(path, tensors, ABOUT)
    assert list(torch_read.read(path)["model"]) == list(tensors)
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        for entry in z.infolist():
            name, extra = struct.unpack_from("<HH", raw, entry.header_offset + 26)
            assert (entry.header_offset + 30 + name + extra) % 64 == 0
            assert (entry.date_time, entry.create_system) == ((1980, 1, 1, 0, 0, 0), 0)
            assert entry.compress_type == zipfile.ZIP_STORED


def test_safetensors_suit_the_library_and_align(tmp_path, tensors):
    path = tmp_path / "net.safetensors"
    write_safetensors(path, tensors, ABOUT)
    with safetensors.safe_open(path, framework="numpy") as f:
        assert f.metadata() == {"format": "pt", "kd_jax": json.dumps(ABOUT)} and set(f.keys()) == set(tensors)
        same(f.get_tensor("transposed"), np.ascontiguousarray(tensors["transposed"]))
    start = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8:start])
    for name in tensors:
        assert start % 8 == 0 and header[name]["data_offsets"][0] % np.asarray(tensors[name]).itemsize == 0


@pytest.mark.parametrize("write", WRITERS)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, write):
    path = tmp_path / "net"
    write(path, {"w": BASE}, {})
    with path.open("rb") as reader:
        before = path.read_bytes()
        write(path, {"w": BASE}, {})
        assert reader.read() == before  # of the file that was there when it was opened
        assert path.stat().st_ino != os.fstat(reader.fileno()).st_ino
    with pytest.raises(TypeError, match="arrays of complex"):
        write(path, {"w": BASE.astype(complex)}, {})
    with pytest.raises(TypeError):
        write(path, {"w": BASE}, {"a": object()})
    with pytest.raises(OSError):
        write(tmp_path / "missing" / "net", {"w": BASE}, {})

    def full(*_):
        assert len(os.listdir(tmp_path)) == 2 and path.read_bytes() == before
        raise OSError("No space left on device")

    monkeypatch.setattr(type(epath.Path(path)), "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(path, {"w": BASE + 1}, {})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net"]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: that it reads what we write is not checked")


@pytest.mark.parametrize("options", [{"weights_only": True}, {"weights_only": False}, {"mmap": True}], ids=str)
def test_torch_reads_what_we_write(torch, tmp_path, tensors, options):
    path = tmp_path / "net.pth"
    write_torch(path, tensors, ABOUT)
    got = torch.load(path, **{"weights_only": True, **options})
    assert got["kd_jax"] == ABOUT and type(got["model"]) is OrderedDict and list(got["model"]) == list(tensors)
    equal({k: np.asarray(a) for k, a in tensors.items()}, dict(got["model"]))
    assert all(x.is_contiguous() for x in got["model"].values())


def test_torch_reads_our_safetensors(torch, tmp_path, tensors):
    from safetensors.torch import load_file, save_file

    write_safetensors(tmp_path / "ours", tensors, ABOUT)
    got = load_file(tmp_path / "ours")
    equal({k: np.asarray(tensors[k]) for k in got}, got)
    save_file(got, tmp_path / "theirs")
    theirs = torch_read.read(tmp_path / "theirs")["model"]
    equal({k: theirs[k] for k in got}, got)


def test_a_module_takes_our_file(torch, tmp_path):
    """A state dict goes to a file and back into a module, strictly."""
    source, net = (torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)) for _ in range(2))
    write_torch(tmp_path / "net", {k: v.numpy() for k, v in source.state_dict().items()}, {})
    net.load_state_dict(torch.load(tmp_path / "net", weights_only=True)["model"], strict=True)
    equal({k: v.numpy() for k, v in net.state_dict().items()}, source.state_dict())
