"""The ImageNet networks against torchvision, mdistiller and timm (test_vit.py has what only ViTs have).

The golden file was written by make_imagenet.py.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.interop import state_dict
from kd_jax.models import imagenet, vit
from kd_jax.models.resnet import Bottleneck, ResNet
from tests.models import make_imagenet

GOLDEN = np.load(make_imagenet.FILE)
NETWORKS = {**imagenet.NETWORKS, **vit.NETWORKS}
TOLERANCE = 1e-4
SIZES = {  # parameters as published, and multiply-adds at 224 x 224
    "imagenet_ResNet18": (11_689_512, 1.81e9),
    "imagenet_ResNet34": (21_797_672, 3.66e9),
    "imagenet_ResNet50": (25_557_032, 4.09e9),
    "imagenet_ResNet101": (44_549_160, 7.80e9),
    "imagenet_MobileNetV1": (4_231_976, 0.569e9),
    "vit_tiny_patch16_224": (5_717_416, 1.25e9),
    "vit_small_patch16_224": (22_050_664, 4.60e9),
    "deit_tiny_distilled_patch16_224": (5_910_800, 1.26e9),
    "deit_small_distilled_patch16_224": (22_436_432, 4.63e9),
}
# they take long: two are of other code than ResNet18, which the rest of `make test` holds by names, sizes and tails
LARGE = (
    "imagenet_ResNet18",
    "imagenet_ResNet34",
    "imagenet_ResNet50",
    "imagenet_ResNet101",
    "imagenet_MobileNetV1",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "deit_small_distilled_patch16_224",
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) if n in LARGE else n for n in NETWORKS])
def test_outputs_are_the_published_codes(name):
    model = NETWORKS[name]()
    stored = {label: make_imagenet.found_in(GOLDEN, f"{name}/{label}/") for label in make_imagenet.CASES}
    for label, (shape, train) in make_imagenet.CASES.items():
        wanted = state_dict.published(model, shape[1:])
        tensors = {k: make_imagenet.weight(k, size) for k, size in wanted.items()}
        variables = state_dict.from_torch(state_dict.WeightsFile("net.pth", tensors, {}, ""), model, shape[1:])
        inputs = variables, make_imagenet.images(shape)
        wide = train and bool(variables.stats)  # over 16 values, BatchNorm after BatchNorm magnifies rounding to 2e-4
        with jax.enable_x64(wide):
            inputs = jax.tree.map(lambda x, wide=wide: x.astype(float) if wide else x, inputs)
            out, stats = jax.jit(lambda v, x, train=train: models.apply(model, v, x, train))(*inputs)
        named = make_imagenet.flat_outputs(*out[:4])
        named |= {} if out.distill_logits is None else {"distill_logits": np.asarray(out.distill_logits)}
        error = make_imagenet.worst(named, stored[label])
        assert error < (1e-6 if wide else TOLERANCE), f"{name} {label}: {error:.1e} of the largest value"
        assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
        if out.cam is not None:
            cam = np.asarray(out.cam)
            np.testing.assert_allclose(cam.mean((1, 2)), out.logits, atol=1e-5 * np.abs(cam).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_sizes_are_the_published_codes(name):
    variables, out, jaxpr = models.base.trace(NETWORKS[name](), (224, 224, 3))
    count, cost = SIZES[name]
    assert models.count_parameters(variables.params) == GOLDEN[f"{name}/parameters"] == count
    assert models.base.multiply_adds(jaxpr) == pytest.approx(cost, rel=0.005)
    exported = state_dict.to_torch(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables))
    assert [f"{k} {v.shape}" for k, v in sorted(exported.items())] == list(GOLDEN[f"{name}/names"])
    assert len(out.stages) == 5 and out.logits.shape == (1, 1000) and out.logits.dtype == jnp.float32


@pytest.mark.parametrize("name", imagenet.NETWORKS)
def test_stages(name):
    model = NETWORKS[name](num_classes=7)
    variables, out = models.shapes(model, (224, 224, 3), batch=2)
    assert [s.shape[1:3] for s in out.stages] == [(n, n) for n in (112, 56, 28, 14, 7)]
    assert [p.shape for p in out.preacts] == [s.shape for s in out.stages]
    assert out.pooled.shape == (2, out.stages[-1].shape[-1]) and out.cam.shape == (2, 7, 7, 7)
    scales = []
    for path in model.bn_before_relu:
        at = variables.params
        for part in path.split("/"):
            at = at[part]
        scales.append(at["scale"].shape)
    assert scales == [p.shape[-1:] for p in out.preacts[1:]]


SMALL = {
    "basic": ResNet(large=True, blocks=(1, 2, 1, 1), widths=(4, 4, 8, 8, 12), num_classes=3),
    "bottleneck": ResNet(large=True, blocks=(2, 1, 1, 1), widths=(4, 8, 8, 8, 16), block=Bottleneck, num_classes=3),
    "mobilenet": imagenet.MobileNetV1(widen=1 / 8, num_classes=3),
}


@pytest.fixture(scope="module", params=SMALL)
def net(request):
    """A network whose running statistics are not the trivial ones, and its outputs at 35 x 64."""
    model = SMALL[request.param]
    image = jax.random.normal(jax.random.key(0), (3, 35, 64, 3)) * 2 + 1

    @jax.jit
    def everything():
        variables = models.init(model, jax.random.key(1), image)
        variables = variables._replace(stats=models.apply(model, variables, image, train=True)[1])
        out, _ = models.apply(model, variables, image)
        return variables, out, [models.apply(model, variables, stage, after=i)[0] for i, stage in enumerate(out.stages)]

    return model, *everything()


def test_tails(net):
    model, _, out, rests = net
    for i, rest in enumerate(rests):
        np.testing.assert_allclose(rest.logits, out.logits, rtol=1e-5, atol=1e-5)
        for ours, theirs in ((rest.stages, out.stages[i + 1 :]), (rest.preacts, out.preacts[i + 1 :])):
            assert len(ours) == len(theirs) == 4 - i
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_preactivations(net):
    model, _, out, _ = net
    assert [s.shape[1] for s in models.shapes(model, (32, 32, 3))[1].stages] == [16, 8, 4, 2, 1]
    for stage, preact in zip(out.stages, out.preacts, strict=True):
        np.testing.assert_array_equal(stage, jax.nn.relu(preact))
    assert all((np.asarray(p) < 0).any() for p in out.preacts[1:])
    np.testing.assert_allclose(out.stages[-1].mean((1, 2)), out.pooled, rtol=1e-5)


def test_the_stem_and_its_pool_pad_like_pytorch():
    """7x7 with 3 zeros on every side, 3x3 with one place on every side that never wins."""
    model = ResNet(large=True, blocks=(1,), widths=(1, 1), num_classes=1)
    image = np.random.RandomState(3).normal(size=(1, 9, 12, 1)).astype("f")
    kernel = np.random.RandomState(4).normal(size=(7, 7)).astype("f")

    @jax.jit
    def run():
        variables = models.init(model, jax.random.key(0), image)
        params = jax.tree.map(jnp.zeros_like, variables.params)  # the layer is its shortcut, and hands the pool on
        params["conv1"]["kernel"] = jnp.asarray(kernel)[..., None, None]
        params["bn1"] = {"scale": jnp.ones(1), "bias": jnp.ones(1)}
        return models.apply(model, variables._replace(params=params), image)[0]

    out = run()
    padded = np.pad(image[0, ..., 0], 3)
    stem = np.array(
        [[(padded[2 * i : 2 * i + 7, 2 * j : 2 * j + 7] * kernel).sum() for j in range(6)] for i in range(5)]
    )
    stem = np.maximum(stem / np.sqrt(1 + 1e-5) + 1, 0)
    np.testing.assert_allclose(out.stages[0][0, ..., 0], stem, rtol=1e-4, atol=1e-4)
    around = np.pad(stem, 1, constant_values=-np.inf)
    pooled = np.array([[around[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(out.stages[1][0, ..., 0], pooled, rtol=1e-4, atol=1e-4)


def test_initialisation():
    """torchvision's: Kaiming over the fan-out; mdistiller's MobileNetV1: PyTorch's defaults."""
    nets = NETWORKS["imagenet_ResNet18"](blocks=(1,)), imagenet.MobileNetV1(widen=1 / 4)
    params = jax.jit(lambda: [models.init(m, jax.random.key(0), jnp.zeros((1, 32, 32, 3))).params for m in nets])()
    assert float(params[0]["conv1"]["kernel"].std()) == pytest.approx((2 / (49 * 64)) ** 0.5, rel=0.02)
    depthwise, point = (params[1]["model.13"][name]["kernel"] for name in ("0", "3"))
    assert float(jnp.abs(depthwise).max()) == pytest.approx(1 / 3, rel=0.01)
    assert float(jnp.abs(point).max()) == pytest.approx(1 / 16, rel=0.01)


def test_a_state_dict_is_recognised(monkeypatch):
    names = ("imagenet_ResNet18", "imagenet_MobileNetV1")
    monkeypatch.setattr(models, "MODELS", {name: NETWORKS[name] for name in names})
    for name in names:
        shapes = state_dict.published(NETWORKS[name](num_classes=5))
        tensors = {f"module.{k}": np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
        assert state_dict.recognize(state_dict.WeightsFile("net.pth", tensors, {}, "")) == (name, 5)


@pytest.mark.full
def test_the_golden_file_is_what_torch_says():
    for module in ("torch", "torchvision", "timm"):
        pytest.importorskip(module, reason=f"{module} is not installed: the golden file is not compared afresh")
    if "MDISTILLER" not in os.environ:
        pytest.skip("MDISTILLER does not name a checkout of mdistiller: the golden file is not compared afresh")
    for name, make, twin, how in make_imagenet.networks(os.environ["MDISTILLER"]):
        for label, outputs in make_imagenet.cases(make, twin, how):
            for key, theirs in outputs.items():
                np.testing.assert_allclose(theirs, GOLDEN[f"{name}/{label}/{key}"], rtol=1e-6, atol=1e-6)
