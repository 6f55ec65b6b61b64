"""Exits: shapes, what a class token's exit sees, and grids that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError
from kd_jax.layers.exits import MapExit, TokenExit

KEY = jax.random.key(0)


@pytest.mark.parametrize("halvings", [0, 1, 3])
def test_maps(halvings):
    layer = MapExit(num_classes=5, width=12, halvings=halvings)
    x = jax.random.normal(KEY, (2, 8, 6, 4))
    variables = layer.init(KEY, x)
    assert layer.apply(variables, x).shape == (2, 5)
    widths = [p["kernel"].shape[-1] for name, p in variables["params"].items() if name.startswith("pointwise")]
    assert widths == [4, 12][: 2 * halvings] if halvings < 2 else widths == [4, 8, 8, 16, 16, 12]
    assert variables["params"]["fc"]["kernel"].shape == (12, 5)


@pytest.mark.full
def test_tokens():
    """Every patch and the class token reach the logits; patches are merged with their neighbours."""
    layer = TokenExit(num_classes=5, grid=(4, 2), blocks=1)
    x = jax.random.normal(KEY, (3, 9, 8))
    variables = layer.init(KEY, x)
    variables = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(KEY, p.shape), variables)
    slopes = jax.grad(lambda x: layer.apply(variables, x)[0].sum())(x)
    assert (np.abs(slopes[0]).max(-1) > 0).all() and not slopes[1:].any()
    # rows 0 and 1 of the grid are one merged patch: exchanging two such pairs of rows changes nothing behind attention
    moved = jnp.concatenate([x[:, :1], x[:, 5:], x[:, 1:5]], axis=1)
    np.testing.assert_allclose(layer.apply(variables, moved), layer.apply(variables, x), rtol=1e-4, atol=1e-5)
    other = x[:, jnp.array([0, 2, 1, 3, 4, 5, 6, 7, 8])]
    assert np.abs(layer.apply(variables, other) - layer.apply(variables, x)).max() > 1e-4


def test_a_grid_that_does_not_fit():
    with pytest.raises(InputError, match="exit: patches of a grid 3x2 cannot be merged by fours; both must be even"):
        TokenExit(5, (3, 2), 1).init(KEY, jnp.zeros((1, 7, 8)))
