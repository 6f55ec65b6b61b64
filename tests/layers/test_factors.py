"""The paraphraser, the translator and AB's connector: arithmetic, start, parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers.factors import LinearRegressor, Paraphraser, encoder
from kd_jax.layers.regressor import Regressor


def slow_conv(x, conv):
    """3x3 with a border of zeros."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    return conv["bias"] + sum(
        padded[:, a : a + h, b : b + w] @ conv["kernel"][a, b] for a in range(3) for b in range(3)
    )


def slow_transposed(x, conv):
    """PyTorch's ConvTranspose2d(3, stride 1, padding 1), its weight [a, b] standing at [2 - a, 2 - b]: every cell is
    spread by the kernel, and the border cut off."""
    n, h, w, _ = x.shape
    out = np.zeros((n, h + 2, w + 2, conv["bias"].size))
    for i, j, a, b in np.ndindex(h, w, 3, 3):
        out[:, i + a, j + b] += x[:, i, j] @ conv["kernel"][2 - a, 2 - b]
    return out[:, 1:-1, 1:-1] + conv["bias"]


def slow_stack(x, params, layer):
    means = {}
    for i in range(3):
        x = layer(x, params[f"conv{i}"])
        if f"bn{i}" in params:
            bn, means[f"bn{i}"] = params[f"bn{i}"], x.mean((0, 1, 2))
            x = (x - means[f"bn{i}"]) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * bn["scale"] + bn["bias"]
        x = np.where(x > 0, x, 0.1 * x)
    return x, means


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("size", [(4, 5), (1, 1)])
def test_paraphraser(rng, x64, batch_norm, size):
    layer, x = Paraphraser(3, batch_norm), rng.normal(0, 1, (4, *size, 6))
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    assert ("batch_stats" in variables) == batch_norm and set(variables["params"]) == {"encoder", "decoder"}
    params = jax.tree.map(lambda p: rng.normal(0, 0.3, p.shape), variables["params"])
    apply = jax.jit(lambda v, x: layer.apply(v, x, True, mutable=["batch_stats"]))
    (factors, rebuilt), moved = apply({**variables, "params": params}, x)
    slow, means = slow_stack(x, params["encoder"], slow_conv)
    np.testing.assert_allclose(factors, slow, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(rebuilt, slow_stack(slow, params["decoder"], slow_transposed)[0], rtol=1e-8, atol=1e-9)
    assert factors.shape == (4, *size, 3) and rebuilt.shape == x.shape
    for name, mean in means.items():
        np.testing.assert_allclose(moved["batch_stats"]["encoder"][name]["mean"], 0.1 * mean, atol=1e-9)
    still = layer.apply({**variables, "params": params}, x)  # running statistics
    assert np.allclose(still[1], rebuilt) != batch_norm


def test_widths_and_parts():
    params = jax.eval_shape(Paraphraser(3, True).init, jax.random.key(0), jnp.zeros((1, 4, 4, 7)))["params"]
    shapes = {part: [layers[f"conv{i}"]["kernel"].shape[2:] for i in range(3)] for part, layers in params.items()}
    assert shapes == {"encoder": [(7, 7), (7, 3), (3, 3)], "decoder": [(3, 3), (3, 7), (7, 7)]}
    alone = jax.eval_shape(encoder(7, 3, True).init, jax.random.key(0), jnp.zeros((1, 4, 4, 7)))["params"]
    assert alone == params["encoder"]  # so that it runs with a paraphraser's variables
    translator = jax.eval_shape(encoder(5, 3, True).init, jax.random.key(0), jnp.zeros((1, 4, 4, 5)))["params"]
    assert translator["conv0"]["kernel"].shape == (3, 3, 5, 5) and translator["conv2"]["kernel"].shape == (3, 3, 3, 3)


def test_start():
    """U(-1, 1) / sqrt(fan in), weights and biases; PyTorch counts a transposed convolution's outputs."""
    params = jax.jit(Paraphraser(16).init)(jax.random.key(0), jnp.zeros((1, 3, 3, 64)))["params"]
    for part, sides in (("encoder", (64, 64, 16)), ("decoder", (16, 64, 64))):
        for i, channels in enumerate(sides):
            layer, bound = params[part][f"conv{i}"], (9 * channels) ** -0.5
            assert 0.98 * bound < float(jnp.abs(layer["kernel"]).max()) <= bound
            assert 0.7 * bound < float(jnp.abs(layer["bias"]).max()) <= bound


@pytest.mark.parametrize(("given", "wanted"), [((5, 5), (5, 5)), ((8, 8), (4, 4)), ((4, 4), (8, 8)), ((5, 3), (2, 3))])
def test_linear_regressor(rng, x64, given, wanted):
    """The regressor before its ReLU, with the same variables."""
    x, shape = rng.normal(0, 1, (4, *given, 3)), (*wanted, 5)
    variables = jax.jit(LinearRegressor(shape).init)(jax.random.key(0), x)

    def apply(layer):
        return jax.jit(lambda v, x: layer.apply(v, x, True, mutable=["batch_stats"]))(variables, x)

    (out, moved), (rectified, same) = apply(LinearRegressor(shape)), apply(Regressor(shape))
    assert out.shape == (4, *shape) and float(out.min()) < -0.5
    np.testing.assert_array_equal(np.maximum(out, 0), rectified)
    jax.tree.map(np.testing.assert_array_equal, moved, same)
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-9)


def test_sizes_that_no_rule_matches():
    with pytest.raises(ValueError, match="a map of 4x4x3 to 7x7x5"):
        LinearRegressor((7, 7, 5)).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
