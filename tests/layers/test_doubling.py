"""The transposed convolution: nn.ConvTranspose's numbers and parameters, without its zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kd_jax.layers.doubling import Doubling
from tests.layers.gradients import with_gradients


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
def test_values_gradients_and_parameters_are_those_of_a_transposed_convolution(size, use_bias):
    with jax.enable_x64():
        x = jax.random.normal(jax.random.key(1), (2, *size, 3), "float64")
        ours, theirs = Doubling(5, use_bias=use_bias), nn.ConvTranspose(5, (4, 4), (2, 2), use_bias=use_bias)
        variables = ours.init(jax.random.key(0), x)
        jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), x))
        variables = jax.tree.map(lambda v: jax.random.normal(jax.random.key(2), v.shape, "float64"), variables)
        results = [with_gradients(of.apply)(variables, x) for of in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), *results)


def test_no_zeros_are_multiplied():
    """No convolution reads an input that was spread out, neither forwards nor backwards."""
    x = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)

    def spread(layer):
        variables = jax.eval_shape(layer.init, jax.random.key(0), x)
        return "lhs_dilate" in with_gradients(layer.apply).lower(variables, x).compile().as_text()

    assert spread(nn.ConvTranspose(5, (4, 4), (2, 2)))
    assert not spread(Doubling(5))
