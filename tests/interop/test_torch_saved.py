"""What PyTorch itself saves is read; needs torch."""

import argparse
from collections import Counter

import numpy as np
import pytest

from kd_jax.interop import torch_read
from tests.interop.assembler import equal, refusal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: that we read what it writes is not checked")


@pytest.fixture
def checkpoint(torch):
    """All that a training script stores."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 5)
    )
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    adam = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, [2, 2, 5])
    net(torch.randn(2, 3, 4, 4)).sum().backward()
    sgd.step(), adam.step(), schedule.step()
    return {
        "model": net.state_dict(),
        "optimizer": sgd.state_dict(),
        "adam": adam.state_dict(),
        "schedule": {k: v for k, v in schedule.state_dict().items() if k != "milestones"},
        "epoch": 240,
        "best_acc": np.float64(72.5),
        "accuracy": torch.tensor(72.5),
        "rng": torch.get_rng_state(),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_writes(torch, checkpoint, path, zipped):
    base = torch.arange(24.0)
    types = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool uint16 uint32 uint64".split()
    tensors = {dt: torch.arange(6).reshape(2, 3).to(getattr(torch, dt)) for dt in types}
    views = {"t": base.reshape(4, 6).T, "part": base[3:19:4], "one": base[5], "expanded": base[:3, None].expand(3, 9)}
    odd = {
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "last": base.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "grad": torch.ones(2, requires_grad=True),
        "numpy rng": np.random.RandomState(0).get_state(),
    }
    saved = {**checkpoint, "tensors": tensors, "views": views, "odd": odd}
    stated = torch.nn.Parameter(torch.ones(3))
    stated.note = "state"
    others = {
        "opt": argparse.Namespace(lr=0.1, model_s="resnet8x4", steps=[150, 180]),
        "size": torch.Size([1, 2]),
        "device": torch.device("cuda", 1),
        "dtype": torch.bfloat16,
        "milestones": Counter([2, 2, 5]),
        "set": {1, 2},
        "raw": b"\x00\xff",
        "stated": stated,
    }
    torch.save({**saved, **others}, path, _use_new_zipfile_serialization=zipped)
    got = torch_read.read(path)
    equal({k: got[k] for k in saved}, saved)
    assert got["opt"] == vars(others["opt"]) and got["size"] == (1, 2) and got["device"] == ("cuda", 1)
    assert (got["dtype"], got["milestones"], got["set"]) == ("torch.bfloat16", {2: 2, 5: 1}, {1, 2})
    assert got["raw"] == b"\x00\xff" and got["stated"].tolist() == [1, 1, 1]
    assert np.shares_memory(got["views"]["t"], got["views"]["part"])
    assert got["views"]["expanded"].strides == (4, 0)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_every_protocol_of_torch(torch, checkpoint, path, zipped, protocol):
    torch.save(checkpoint, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    equal(torch_read.read(path), checkpoint)


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize("zipped", [True, False])
def test_refuses_what_is_no_state_dict(torch, path, zipped):
    def said(value):
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        return refusal(path)

    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert said(module).startswith("refers to torch.nn.modules.container.Sequential; only")
    assert "save model.state_dict() instead" in said(module) and "save model" not in said({"x": max})
    assert "torch.ComplexFloatStorage" in said(torch.ones(2, dtype=torch.complex64))
    assert "negated view" in said(torch.ones(2, dtype=torch.complex64).conj().imag)
    assert "_rebuild_sparse_tensor" in said(torch.eye(2).to_sparse())
    assert "_rebuild_qtensor" in said(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))


@pytest.mark.filterwarnings("ignore")
def test_refuses_torchscript(torch, path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert refusal(path).startswith("a TorchScript archive")
