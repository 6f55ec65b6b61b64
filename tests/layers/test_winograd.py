"""Winograd's convolution: lax's function, by fewer products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kd_jax.layers.convolution import convolve
from kd_jax.layers.winograd import winograd_convolve
from tests.layers.gradients import with_gradients

SPEC = ("NHWC", "HWIO", "NHWC")
ONE_AROUND = ((1, 1), (1, 1))


def _operands(channels: int, features: int, batch: int = 3, height: int = 4, width: int = 6, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 2)
    kernel = jax.random.normal(keys[1], (3, 3, channels, features), dtype) / (3 * channels**0.5)
    return jax.random.normal(keys[0], (batch, height, width, channels), dtype), kernel


def _convolve(x, kernel, strides=(1, 1), padding="SAME", **options):
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, SPEC)
    return convolve(x, kernel, strides, padding, dimension_numbers=numbers, **options)


def _lax(x, kernel, strides=(1, 1), padding="SAME", **options):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=SPEC, **options)


def _products(of, *operands, platform: str = "cpu", **options) -> tuple[int, int]:
    """How many convolutions and products of matrices the program has."""
    traced = jax.jit(lambda x, kernel: of(x, kernel, **options)).trace(*operands)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")


def test_values_are_those_of_lax_to_the_last_digits_of_float64():
    with jax.enable_x64(True):
        x, kernel = _operands(5, 7, dtype=jnp.float64)
        np.testing.assert_allclose(winograd_convolve(x, kernel), _lax(x, kernel), rtol=0, atol=1e-14)


@pytest.mark.parametrize("padding", ["SAME", ONE_AROUND])
def test_a_wide_convolution_without_a_gradient_is_winograds_on_a_cpu_alone(padding):
    operands = _operands(128, 128)
    assert _products(_convolve, *operands, padding=padding) == (0, 16)
    assert _products(_convolve, *operands, padding=padding, platform="cuda") == (1, 0)
    theirs = _lax(*operands, padding=padding)
    np.testing.assert_allclose(_convolve(*operands, padding=padding), theirs, atol=2e-6 * jnp.abs(theirs).max())


@pytest.mark.parametrize(("size", "options"), [
    ({"channels": 127}, {}), ({"features": 127}, {}), ({"height": 5}, {}), ({"width": 5}, {}),
    ({"height": 2}, {}), ({"dtype": jnp.bfloat16}, {}),
    ({}, {"strides": (2, 2)}), ({}, {"padding": "VALID"}), ({}, {"padding": ((2, 2), (1, 1))}),
    ({}, {"rhs_dilation": (2, 2)}),
    ({}, {"lhs_dilation": (2, 2), "padding": ONE_AROUND}), ({"channels": 256}, {"feature_group_count": 2}),
])  # fmt: skip
def test_every_other_convolution_stays_laxs(size, options):
    x, kernel = _operands(**{"channels": 128, "features": 128, **size})
    kernel = kernel[:, :, : kernel.shape[2] // options.get("feature_group_count", 1)]
    assert _products(_convolve, x, kernel, **options) == (1, 0)
    np.testing.assert_array_equal(_convolve(x, kernel, **options), _lax(x, kernel, **options))


def test_where_a_gradient_is_taken_the_value_is_laxs_too():
    operands = _operands(128, 128)
    assert _products(with_gradients(_convolve), *operands) == (3, 0)
    (_, ours), _ = with_gradients(_convolve)(*operands)
    np.testing.assert_array_equal(ours, jax.jit(_lax)(*operands))


def test_an_image_has_the_same_bits_in_every_batch():
    x, kernel = _operands(128, 128, batch=24, height=8, width=8)
    whole = jax.jit(winograd_convolve)(x, kernel)
    for size in (1, 3, 8):
        np.testing.assert_array_equal(jax.jit(winograd_convolve)(x[:size], kernel), whole[:size])
