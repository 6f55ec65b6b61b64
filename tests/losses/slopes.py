"""Gradients of losses on maps against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np


def gradients_are_slopes(loss, rng):
    """Of a loss of two maps, in both; neither may be 0. In float64."""
    maps = jnp.asarray(rng.normal(0, 1, (2, 2, 3, 3, 2)))
    total = jax.jit(lambda maps: loss(*maps).sum())
    grad = jax.jit(jax.grad(total))(maps)
    assert (jnp.abs(grad).max(axis=(1, 2, 3, 4)) > 1e-3).all()
    for i in np.ndindex(maps.shape):
        slope = (total(maps.at[i].add(1e-6)) - total(maps.at[i].add(-1e-6))) / 2e-6
        np.testing.assert_allclose(grad[i], slope, rtol=1e-5, atol=1e-8)
