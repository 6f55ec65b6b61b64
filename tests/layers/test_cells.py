"""Depthwise convolution and max pooling by cells: XLA's functions, by another program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from kd_jax.layers.basic import depthwise
from kd_jax.layers.cells import max_pool
from kd_jax.layers.convolution import convolve
from tests.layers.gradients import with_gradients

NUMBERS = lax.conv_dimension_numbers((2, 8, 8, 6), (3, 3, 1, 6), ("NHWC", "HWIO", "NHWC"))


def _compare(ours, theirs, arguments, **tolerances):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerances),
        *(with_gradients(of)(*arguments) for of in (ours, theirs)),
    )


def _depthwise(of, stride=1, padding=((1, 1), (1, 1))):
    def call(x, kernel):
        groups = {"feature_group_count": x.shape[-1]}
        return of(x, kernel, (stride, stride), padding, dimension_numbers=NUMBERS, **groups)

    return call


@pytest.mark.parametrize(("size", "stride", "image", "padding"), [
    (3, 1, (8, 8), [(1, 1)] * 2), (3, 2, (8, 7), [(1, 1)] * 2), (5, 1, (4, 5), "SAME"), (5, 2, (9, 8), "SAME"),
    (3, 2, (7, 7), "VALID"), (3, 1, (1, 1), [(1, 1)] * 2),
])  # fmt: skip
def test_depthwise_values_and_gradients_are_those_of_lax(size, stride, image, padding):
    keys = jax.random.split(jax.random.key(0), 2)
    with jax.enable_x64():
        x, kernel = (
            jax.random.normal(key, shape, "float64")
            for key, shape in zip(keys, ((2, *image, 6), (size, size, 1, 6)), strict=True)
        )
        ours, theirs = (_depthwise(of, stride, padding) for of in (convolve, lax.conv_general_dilated))
        _compare(ours, theirs, (x, kernel), rtol=1e-11, atol=1e-12)


def test_depthwise_second_derivatives_are_those_of_lax():
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], (2, 6, 6, 6)), jax.random.normal(keys[1], (3, 3, 1, 6))

    def twice(of):
        inner = jax.grad(lambda kernel: jnp.sum(_depthwise(of)(x, kernel) ** 3))
        return jax.grad(lambda kernel: jnp.sum(inner(kernel) ** 2))(kernel)

    theirs = twice(lax.conv_general_dilated)
    np.testing.assert_allclose(twice(convolve) / jnp.abs(theirs).max(), theirs / jnp.abs(theirs).max(), atol=1e-5)


def test_a_spread_out_input_is_left_to_lax():
    """Its zeros would be read past."""
    x, kernel = jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 1, 2))
    numbers = {"dimension_numbers": NUMBERS, "feature_group_count": 2, "lhs_dilation": (2, 2)}
    ours, theirs = (of(x, kernel, (1, 1), [(1, 1)] * 2, **numbers) for of in (convolve, lax.conv_general_dilated))
    np.testing.assert_array_equal(ours, theirs)


def test_bfloat16_is_summed_in_float32():
    """Over 2,048 places with a one each: bfloat16 would count to 256."""
    x, kernel = jnp.ones((2, 32, 32, 2), "bfloat16"), jnp.zeros((3, 3, 1, 2), "bfloat16")
    gradient = jax.grad(lambda kernel: jnp.sum(_depthwise(convolve)(x, kernel).astype("float32")))(kernel)
    assert gradient.dtype == "bfloat16" and gradient[1, 1, 0, 0] == 2048


@pytest.mark.parametrize(("size", "stride", "padding", "image"), [
    (2, 2, 0, (8, 8)), (2, 2, 0, (7, 5)), (3, 2, 1, (8, 8)), (3, 2, 1, (7, 9)), (3, 1, 1, (4, 4)),
])  # fmt: skip
def test_max_pool_values_and_gradients_are_those_of_xla(size, stride, padding, image):
    """Among ties too: most cells are zeros behind a ReLU."""
    x = nn.relu(jax.random.normal(jax.random.key(0), (3, *image, 4)) - 1)

    def theirs(x):
        return nn.max_pool(x, (size, size), (stride, stride), ((padding, padding),) * 2)

    exact = {"rtol": 0, "atol": 0} if stride == size else {"rtol": 1e-6, "atol": 1e-6}
    _compare(lambda x: max_pool(x, size, stride, padding), theirs, (x,), **exact)


def test_other_devices_have_their_own():
    """What is compiled for a TPU is a convolution, and a scatter."""
    layer, x = depthwise(6), jnp.ones((2, 8, 8, 6))
    variables = layer.init(jax.random.key(0), x)

    def loss(variables, x):
        return jnp.sum(max_pool(layer.apply(variables, x), 2, 2) ** 2)

    def text(platform):
        return jax.jit(jax.grad(loss)).trace(variables, x).lower(lowering_platforms=(platform,)).as_text()

    for platform, by_xla in (("tpu", True), ("cpu", False)):
        assert [word in text(platform) for word in ("stablehlo.convolution", "select_and_scatter")] == [by_xla, by_xla]
