"""Every network against the published PyTorch code: names, sizes, and all outputs in both modes.

The golden file was written by make_golden.py. `make test-all` compares it afresh where torch and
MDISTILLER (a checkout) are there.
"""

import os

import jax
import numpy as np
import pytest

from kd_jax import models
from kd_jax.interop import state_dict
from kd_jax.models import efficientnet, imagenet, vit
from tests.models import make_golden

GOLDEN = np.load(make_golden.FILE)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def net(request):
    """A network with weights carried over from a state dict, these, and its outputs in both modes."""
    model = models.create(request.param, 100)
    tensors = {k: make_golden.weight(k, shape) for k, shape in state_dict.published(model).items()}
    variables = state_dict.from_torch(state_dict.WeightsFile("net.pth", tensors, {}, ""), model)

    @jax.jit
    def both(variables, image):
        return {mode: models.apply(model, variables, image, train=mode == "train")[0] for mode in ("eval", "train")}

    return model, variables, both(variables, make_golden.images())


# the others: see test_imagenet.py and test_vit.py
LARGE = {**imagenet.NETWORKS, **efficientnet.NETWORKS, **vit.NETWORKS}
CIFAR = [name for name in models.MODELS if name not in LARGE]
# other sizes of code that the rest runs
SIZES = ("resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "ResNet18", "wrn_16_2", "wrn_40_1")
SIZES += ("wrn_40_2", "vgg11", "vgg13", "vgg16", "vgg19")


@pytest.mark.parametrize(
    ("name", "net"),
    [pytest.param(n, n, marks=pytest.mark.full) if n in SIZES else (n, n) for n in CIFAR],
    indirect=["net"],
)
def test_outputs_are_the_published_codes(name, net):
    outputs = net[-1]
    for mode, out in outputs.items():
        assert (out.preacts is None) == (f"{name}/eval/preacts/0" not in GOLDEN)
        named = make_golden.flat_outputs(*out[:4])  # class activation maps: see test_cam.py
        keys = [k.removeprefix(f"{name}/{mode}/") for k in GOLDEN if k.startswith(f"{name}/{mode}/")]
        assert set(named) == set(keys)
        for key in keys:
            ours, theirs = make_golden.sample(named[key]), GOLDEN[f"{name}/{mode}/{key}"]
            worst = np.abs(ours - theirs).max() / theirs[0]
            assert worst < TOLERANCE, f"{name} {mode} {key}: {worst:.1e} of the largest value"


@pytest.mark.full  # of small networks: test_models.py
@pytest.mark.parametrize("net", CIFAR, indirect=True)
def test_tails(net):
    model, variables, outputs = net
    stages, logits = outputs["eval"].stages, outputs["eval"].logits
    tails = jax.jit(lambda variables, stages: [models.tail(model, variables, s, i) for i, s in enumerate(stages)])
    for i, tail in enumerate(tails(variables, stages)):
        assert np.abs(tail - logits).max() < 1e-5 * np.abs(logits).max(), f"tail behind stage {i}"


@pytest.mark.parametrize("name", CIFAR)
def test_names_and_sizes_are_the_published_codes(name):
    model = models.create(name, 100)
    variables = models.shapes(model, (32, 32, 3))[0]
    assert models.count_parameters(variables.params) == GOLDEN[f"{name}/parameters"]
    exported = state_dict.to_torch(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables))
    assert [f"{k} {v.shape}" for k, v in sorted(exported.items())] == list(GOLDEN[f"{name}/names"])


def test_every_published_network_is_here():
    assert {key.split("/")[0] for key in GOLDEN} == set(CIFAR)


@pytest.mark.full
def test_the_golden_file_is_what_torch_says():
    pytest.importorskip("torch", reason="torch is not installed: the golden file is not compared afresh")
    if "MDISTILLER" not in os.environ:
        pytest.skip("MDISTILLER does not name a checkout of mdistiller: the golden file is not compared afresh")
    for name, net, _ in make_golden.published(os.environ["MDISTILLER"]):
        for mode in ("eval", "train"):
            for key, theirs in make_golden.run(net, mode).items():
                np.testing.assert_allclose(theirs, GOLDEN[f"{name}/{mode}/{key}"], rtol=1e-6)
