"""EfficientNet-Lite0 against the published PyTorch code; golden/lite.npz was written by make_lite.py."""

import jax
import numpy as np
import pytest

from kd_jax import models
from kd_jax.interop import state_dict
from kd_jax.interop.loaded import own_normalization
from kd_jax.models.efficientnet import EfficientNetLite0
from kd_jax.models.network import Network
from tests.models import make_lite
from tests.models.make_golden import flat_outputs, weight
from tests.models.make_imagenet import found_in, images, worst

GOLDEN = np.load(make_lite.FILE)
TOLERANCE = 1e-4
FULL = (pytest.param(label, marks=pytest.mark.full) for label in ("train", "whole"))


@pytest.fixture(scope="module")
def variables():
    """Those of the golden file, which are a function of their names."""
    model = EfficientNetLite0()
    tensors = {k: weight(k, size) for k, size in state_dict.published(model).items()}
    return state_dict.from_torch(state_dict.WeightsFile("net.pth", tensors, {}, ""), model)


def run(variables, label):
    """The outputs of a case, and the largest difference from the published ones, as a share of an output's largest."""
    shape, train = make_lite.SIZED[label]
    with jax.enable_x64(train):  # over few values, BatchNorm after BatchNorm magnifies rounding
        inputs = jax.tree.map(lambda x: x.astype(float) if train else x, (variables, images(shape)))
        out, stats = jax.jit(lambda v, x: models.apply(EfficientNetLite0(), v, x, train))(*inputs)
    return out, stats, worst(flat_outputs(*out[:4]), found_in(GOLDEN, f"{label}/"))


@pytest.mark.parametrize(
    "label", ["eval", *(pytest.param(x, marks=pytest.mark.full) for x in ("train", "odd", "whole"))]
)
def test_outputs_are_the_published_codes(variables, label):
    out, stats, error = run(variables, label)
    assert error < (1e-6 if make_lite.SIZED[label][1] else TOLERANCE), f"{error:.1e} of the largest value"
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
    np.testing.assert_allclose(np.asarray(out.cam).mean((1, 2)), out.logits, atol=1e-4)


def test_names_and_sizes_are_the_published_codes():
    shapes, out, jaxpr = models.base.trace(EfficientNetLite0(), (224, 224, 3))
    assert models.count_parameters(shapes.params) == GOLDEN["parameters"] == 4_652_008
    assert models.base.multiply_adds(jaxpr) == pytest.approx(0.385e9, rel=0.02)
    exported = state_dict.to_torch(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes))
    assert [f"{k} {v.shape}" for k, v in sorted(exported.items())] == list(GOLDEN["names"])
    assert [s.shape[1:] for s in out.stages] == [(112, 112, 32), (56, 56, 24), (28, 28, 40), (14, 14, 112), (7, 7, 320)]
    assert out.pooled.shape == (1, 1280) and out.preacts is None


def test_a_tail_is_the_rest(variables):
    image = images((1, 32, 32, 3))
    out = jax.jit(lambda v, x: models.apply(EfficientNetLite0(), v, x)[0])(variables, image)
    for i in (0, 3):
        tail = jax.jit(lambda v, x, i=i: models.tail(EfficientNetLite0(), v, x, i))(variables, out.stages[i])
        np.testing.assert_allclose(tail, out.logits, rtol=1e-5, atol=1e-5)


def test_published_weights_bring_their_normalisation():
    network = Network("EfficientNetLite0", EfficientNetLite0(), 1000, (224, 224, 3), (0.1,) * 3, (0.2,) * 3)
    assert own_normalization({}, network).mean == (127 / 255,) * 3
    described = {"network": {"mean": [0.3] * 3, "std": [0.4] * 3}}
    assert own_normalization(described, network)[4:] == ((0.3,) * 3, (0.4,) * 3)
