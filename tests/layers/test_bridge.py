"""FCFD's bridge: its three convolutions by size, its LeakyReLU, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, models
from kd_jax.layers.bridge import Bridge


def parameters(bridge, size):
    variables = jax.eval_shape(bridge.init, jax.random.key(0), jnp.zeros((1, *size)))
    return {name: leaf.shape for name, leaf in variables["params"]["conv"].items()}


def test_sizes():
    assert parameters(Bridge((4, 4, 5)), (4, 4, 3)) == {"kernel": (3, 3, 3, 5)}
    assert parameters(Bridge((4, 4, 5)), (8, 8, 3)) == {"kernel": (3, 3, 3, 5), "bias": (5,)}
    assert parameters(Bridge((8, 8, 5)), (4, 4, 3)) == {"kernel": (4, 4, 3, 5), "bias": (5,)}
    for size in ((4, 4, 3), (8, 8, 3), (7, 7, 3)):
        assert Bridge((4, 4, 5)).init_with_output(jax.random.key(0), jnp.ones((2, *size)))[0].shape == (2, 4, 4, 5)
    with pytest.raises(InputError, match="bridge: no convolution takes a map of 12x12 to 4x4: sizes must be equal, or"):
        parameters(Bridge((4, 4, 5)), (12, 12, 3))


def test_all_bridges_of_the_published_pair_have_its_number_of_parameters():
    """1.55 million of resnet32x4 and resnet8x4: to the teacher from stages 1 to 3, to the student from 1 and 2, and
    from the last one, which the published code has but does not use."""
    stages = [models.shapes(models.create(n, 100), (32, 32, 3))[1].stages[1:] for n in ("resnet8x4", "resnet32x4")]
    total = 0
    for x, y in (pair for pairs in (zip(*stages, strict=True), zip(*stages[::-1], strict=True)) for pair in pairs):
        variables = jax.eval_shape(Bridge(y.shape[1:]).init, jax.random.key(0), jnp.zeros((1, *x.shape[1:])))
        total += models.count_parameters(variables["params"])
    assert round(total / 1e6, 2) == 1.55


def test_by_hand(rng):
    """A kernel that passes the map on, BatchNorm at its start, the LeakyReLU."""
    x = jnp.float32(rng.normal(size=(2, 4, 4, 3)))
    kernel = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    for leaky in (True, False):
        bridge = Bridge((4, 4, 3), leaky)
        variables = bridge.init(jax.random.key(0), x)
        params = {**variables["params"], "conv": {"kernel": kernel}}
        y = bridge.apply({**variables, "params": params}, x) * (1 + 1e-5) ** 0.5
        np.testing.assert_allclose(y, np.where(x < 0, 0.1 * x, x) if leaky else x, rtol=1e-5)
