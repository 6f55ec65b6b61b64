"""The convolution with a gradient that is quick on a CPU: the same function, by another program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kd_jax.layers import convolution
from tests.layers.gradients import with_gradients

NUMBERS = lax.conv_dimension_numbers((2, 8, 8, 6), (3, 3, 6, 4), ("NHWC", "HWIO", "NHWC"))


def _operands(size: int, groups: int):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (2, 8, 8, 6)), jax.random.normal(keys[1], (size, size, 6 // groups, 12))


@pytest.mark.parametrize(("size", "stride", "groups", "dilation"), [
    (3, 1, 1, 1), (3, 2, 1, 1), (1, 1, 1, 1), (1, 2, 1, 1), (3, 1, 1, 2), (3, 1, 3, 1), (3, 2, 6, 1),
])  # fmt: skip
def test_values_and_gradients_are_those_of_lax(size, stride, groups, dilation):
    x, kernel = _operands(size, groups)

    def values(of):
        def call(x, kernel):
            options = {"feature_group_count": groups, "rhs_dilation": (dilation, dilation), "precision": "highest"}
            return of(x, kernel, (stride, stride), [(size // 2,) * 2] * 2, dimension_numbers=NUMBERS, **options)

        return with_gradients(call)(x, kernel)

    def compare(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-5)

    jax.tree.map(compare, values(convolution.convolve), values(lax.conv_general_dilated))


def test_second_derivatives_are_those_of_lax():
    x, kernel = _operands(3, 1)

    def values(of):
        def inner(kernel):
            return jnp.sum(of(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS) ** 3)

        return jax.grad(lambda kernel: jnp.sum(jax.grad(inner)(kernel) ** 2))(kernel)

    theirs = values(lax.conv_general_dilated)
    np.testing.assert_allclose(
        values(convolution.convolve) / jnp.abs(theirs).max(), theirs / jnp.abs(theirs).max(), atol=1e-5
    )


def test_the_input_is_turned_as_it_stands():
    """What comes before a convolution is not computed once more inside the copy that its kernel's gradient reads."""
    x, kernel = _operands(3, 1)

    def loss(kernel, scale):
        y = convolution.convolve(jnp.tanh(x * scale), kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)
        return jnp.sum(y**2)

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(kernel, 1.0).compile().as_text()
    turned = [line for line in text.splitlines() if " call(" in line and 'inlineable="false"' in line]
    assert len(turned) == 1 and "tanh" in turned[0].partition(" call(")[2].partition(")")[0]
