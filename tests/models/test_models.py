"""Networks: shapes, tails, statistics, and that preactivations are what they say; see also test_golden.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, models
from kd_jax.models import efficientnet, imagenet, network, vit

apply = jax.jit(models.apply, static_argnums=0, static_argnames=("train", "after"))
init = jax.jit(models.init, static_argnums=0, static_argnames="after")
tail = jax.jit(models.tail, static_argnums=(0, 3))

HEIGHTS = {
    **dict.fromkeys(("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"), [32, 16, 8, 4, 4]),
    **dict.fromkeys(("ShuffleV1", "ShuffleV2"), [32, 16, 8, 4]),
    **dict.fromkeys(("ResNet18", "ResNet50"), [32, 32, 16, 8, 4]),
    "MobileNetV2": [16, 16, 8, 4, 2],
    **dict.fromkeys((*imagenet.NETWORKS, *efficientnet.NETWORKS), [16, 8, 4, 2, 1]),
    **{name: [6 if "distilled" in name else 5] * 5 for name in vit.NETWORKS},  # tokens
}


@pytest.mark.parametrize("name", models.MODELS)
def test_shapes(name):
    _, out = models.shapes(models.create(name, 100), (32, 32, 3), batch=2)
    rows = [s.shape[1] for s in out.stages]
    assert rows == HEIGHTS.get(name, [32, 32, 16, 8])
    assert out.preacts is None or [p.shape for p in out.preacts] == [s.shape for s in out.stages]
    assert out.pooled.shape[0] == 2 and out.logits.shape == (2, 100)


SMALL = {
    "resnet8": {}, "wrn_16_1": {},
    "vgg11": {"widths": ((4,), (4,), (8, 8), (8, 8), (16, 16))},
    "MobileNetV2": {"expand": 2},
    "ShuffleV1": {"widths": (60, 120, 240), "blocks": (1, 2, 1)},
    "ShuffleV2": {"widths": (16, 32, 32, 64), "blocks": (1, 1, 1)},
    "ResNet50": {"widths": (4, 16, 32, 32, 64), "blocks": (1, 2, 1, 1)},
}  # fmt: skip


LONGER = ("MobileNetV2", "ShuffleV2", "ResNet50")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.full) if n in LONGER else n for n in SMALL])
def net(request):
    """A network whose running statistics are not the trivial ones."""
    model = models.create(request.param, 7, **SMALL[request.param])
    image = jax.random.normal(jax.random.key(0), (4, 12, 12, 1)) * 2 + 1
    variables = init(model, jax.random.key(1), image)
    for _ in range(3):
        variables = variables._replace(stats=apply(model, variables, image, train=True)[1])
    return model, variables, image


def test_tails(net):
    model, variables, image = net
    out, _ = apply(model, variables, image)
    np.testing.assert_allclose(tail(model, variables, out.stages[1], 1), out.logits, rtol=1e-6, atol=1e-6)
    for i, stage in enumerate(out.stages):
        rest, _ = apply(model, variables, stage, after=i)
        np.testing.assert_allclose(rest.logits, out.logits, rtol=1e-6, atol=1e-6)
        assert len(rest.stages) == len(out.stages) - 1 - i
        maps = rest.stages + (rest.preacts or ()), out.stages[i + 1 :] + (out.preacts or ())[i + 1 :]
        for ours, theirs in zip(*maps, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_tail_of_its_own(net):
    """A branch has only the parameters of its part, and trains with statistics of its own."""
    model, variables, image = net
    x = apply(model, variables, image)[0].stages[2]
    branch = init(model, jax.random.key(2), x, after=2)
    assert 0 < models.count_parameters(branch.params) < models.count_parameters(variables.params)
    out, stats = apply(model, branch, x, train=True, after=2)
    assert out.logits.shape == (4, 7)
    assert jax.tree.structure(stats) == jax.tree.structure(branch.stats)


def test_preactivations(net):
    model, variables, image = net
    out, _ = apply(model, variables, image)
    kind = model.__class__.__name__
    if kind == "MobileNetV2":
        assert out.preacts is None
    elif kind == "ShuffleV2":  # the same channels, shuffled
        for stage, preact in zip(out.stages, out.preacts, strict=True):
            ours, theirs = np.sort(stage.sum((1, 2))), np.sort(jax.nn.relu(preact).sum((1, 2)))
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    elif kind != "WideResNet":
        for stage, preact in zip(out.stages, out.preacts, strict=True):
            np.testing.assert_array_equal(stage, jax.nn.relu(preact))
        assert any((np.asarray(p) < 0).any() for p in out.preacts[1:])
    else:
        np.testing.assert_array_equal(out.stages[0], out.preacts[0])
        pooled = jax.nn.relu(out.preacts[-1]).mean((1, 2))
        np.testing.assert_allclose(pooled, out.pooled, rtol=1e-5)
        norm = variables.stats["bn1"], variables.params["bn1"]
        slow = (out.stages[-1] - norm[0]["mean"]) / jnp.sqrt(norm[0]["var"] + 1e-5) * norm[1]["scale"] + norm[1]["bias"]
        np.testing.assert_allclose(slow, out.preacts[-1], rtol=1e-4, atol=1e-4)


def test_train_and_eval(net):
    model, variables, image = net
    trained, stats = apply(model, variables, image, train=True)
    evaluated, unchanged = apply(model, variables, image)
    jax.tree.map(np.testing.assert_array_equal, unchanged, variables.stats)
    assert not np.allclose(trained.logits, evaluated.logits)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), stats, variables.stats)
    assert all(jax.tree.leaves(moved))


def test_batchnorm_is_pytorchs(rng):
    """Momentum 0.9 of the old, epsilon 1e-5, two-pass variance."""
    from kd_jax.layers.basic import BatchNorm

    x = rng.normal(1000, 0.1, (64, 3)).astype("f")  # E[x^2] - E[x]^2 would cancel here
    variables = BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    y, moved = BatchNorm(use_running_average=False).apply(variables, x, mutable=["batch_stats"])
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5), atol=0.02)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.1 * wide.mean(0), rtol=1e-4)
    np.testing.assert_allclose(moved["batch_stats"]["var"], 0.9 + 0.1 * wide.var(0), rtol=1e-3)


def test_stride_two_pads_like_pytorch():
    """padding=1 on both sides: the first output sees pixels -1, 0, 1, not 0, 1, 2."""
    from kd_jax.layers.basic import conv

    layer = conv(1, 3, 2)
    x = jnp.zeros((1, 4, 4, 1)).at[0, 2, 2, 0].set(1.0)
    y = layer.apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, x)[0, ..., 0]
    np.testing.assert_array_equal(y, [[0, 0], [0, 1]])


def test_initialisation():
    model = models.create("resnet8x4", 100)
    variables = init(model, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    kernel = variables.params["layer3"]["0"]["conv2"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)  # Kaiming, fan-out
    fc = variables.params["fc"]
    assert float(jnp.abs(fc["kernel"]).max()) == pytest.approx(1 / 16, rel=0.01)
    assert 0 < float(jnp.abs(fc["bias"]).max()) <= 1 / 16
    wide = models.create("wrn_16_1", 5)
    variables = init(wide, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert (variables.params["fc"]["bias"] == 0).all()


def test_create():
    assert models.create("WRN_40_2", 10) == models.create("wrn_40_2", 10)
    assert models.create("resnet8", 10, widths=(4, 4, 8, 16)).widths == (4, 4, 8, 16)
    with pytest.raises(InputError, match="unknown model 'resnet32x8'; did you mean resnet32x4.*known: resnet8, "):
        models.create("resnet32x8", 10)


def test_normalize():
    image = jnp.ones((1, 2, 2, 2)) * 0.5
    np.testing.assert_allclose(network.normalize(image, (0.5, 0.25), (1.0, 0.5))[0, 0, 0], [0.0, 0.5])
