"""FitNet's regressor: which convolution stands for which sizes, its arithmetic, its start, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers.regressor import Regressor

CASES = {  # student's size, teacher's size -> kernel
    ((8, 8), (4, 4)): (3, 3, 3, 5),
    ((4, 4), (8, 8)): (4, 4, 3, 5),
    ((8, 8), (8, 8)): (1, 1, 3, 5),
    ((7, 7), (5, 5)): (3, 3, 3, 5),
    ((9, 9), (4, 4)): (6, 6, 3, 5),
    ((9, 8), (4, 3)): (6, 6, 3, 5),
    ((8, 7), (4, 4)): (3, 3, 3, 5),
    ((3, 5), (6, 10)): (4, 4, 3, 5),
    ((2, 2), (1, 1)): (3, 3, 3, 5),
    ((7, 5), (3, 5)): (5, 1, 3, 5),
}


def slow(kernel, bias, x, size):
    """The convolution of one map (h, w, c), by its definition."""
    (kh, kw, _, width), (h, w) = kernel.shape, x.shape[:2]
    out = np.zeros((*size, width)) + bias
    doubled, halved = size[0] == 2 * h, h == 2 * size[0]
    for i, j, a, b in np.ndindex(*size, kh, kw):
        if doubled:  # zeros between the cells, and two around them
            y, x_ = i + a - 2, j + b - 2
            if y % 2 or x_ % 2:
                continue
            y, x_ = y // 2, x_ // 2
        else:
            y, x_ = (2 * i + a - 1, 2 * j + b - 1) if halved else (i + a, j + b)
        if 0 <= y < h and 0 <= x_ < w:
            out[i, j] += x[y, x_] @ kernel[a, b]
    return out


@pytest.mark.parametrize(("sizes", "kernel"), CASES.items(), ids=str)
def test_convolution_norm_relu(rng, x64, sizes, kernel):
    given, wanted = sizes
    layer, x = Regressor((*wanted, 5)), jnp.asarray(rng.normal(0, 1, (4, *given, 3)))
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    params = jax.tree.map(lambda p: rng.normal(0, 1, p.shape), variables["params"])
    assert params["conv0"]["kernel"].shape == kernel and params["conv0"]["bias"].shape == (5,)
    out, moved = layer.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
    leaves = {k: np.asarray(v) for k, v in (params["conv0"] | params["bn0"] | {"shift": params["bn0"]["bias"]}).items()}
    bias = np.asarray(params["conv0"]["bias"])
    y = np.stack([slow(leaves["kernel"], bias, np.asarray(one), wanted) for one in x])
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    np.testing.assert_allclose(
        out,
        np.maximum((y - mean) / np.sqrt(var + 1e-5) * leaves["scale"] + leaves["shift"], 0),
        rtol=1e-6,
        atol=1e-9,
    )
    np.testing.assert_allclose(moved["batch_stats"]["bn0"]["mean"], 0.1 * mean, rtol=1e-6, atol=1e-9)
    still = layer.apply({**variables, "params": params}, x)  # running statistics 0 and 1 at the start
    np.testing.assert_allclose(
        still,
        np.maximum(y / np.sqrt(1 + 1e-5) * leaves["scale"] + leaves["shift"], 0),
        rtol=1e-6,
        atol=1e-9,
    )


def test_depth_adds_plain_convolutions(rng):
    x = jnp.float32(rng.normal(0, 1, (2, 8, 8, 3)))
    layer = Regressor((4, 4, 5), 3)
    variables = layer.init(jax.random.key(0), x)
    assert {k: v["kernel"].shape for k, v in variables["params"].items() if "kernel" in v} == {
        "conv0": (3, 3, 3, 5), "conv1": (3, 3, 5, 5), "conv2": (3, 3, 5, 5),
    }  # fmt: skip
    assert set(variables["batch_stats"]) == {"bn0", "bn1", "bn2"}
    first = {c: {k: v for k, v in part.items() if k.endswith("0")} for c, part in variables.items()}
    hidden = Regressor((4, 4, 5)).apply(first, x)
    for i in (1, 2):
        single = {c: {f"{k[:-1]}0": v for k, v in part.items() if k.endswith(str(i))} for c, part in variables.items()}
        padded = jnp.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
        hidden = Regressor((4, 4, 5)).apply(single, padded)  # 6 to 4: the same 3x3, without padding
    out = layer.apply(variables, x)
    assert out.shape == (2, 4, 4, 5) and float(out.max()) > 0
    np.testing.assert_allclose(out, hidden, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("given", "wanted"), [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((5, 5), (5, 5))])
def test_start(given, wanted):
    """U(-1, 1) / sqrt(fan in), as PyTorch counts it; bias 0."""
    conv = Regressor((*wanted, 64)).init(jax.random.key(0), jnp.zeros((1, *given, 16)))["params"]["conv0"]
    height, width, inputs, outputs = conv["kernel"].shape
    bound = (height * width * (outputs if height == 4 else inputs)) ** -0.5
    largest = float(jnp.abs(conv["kernel"]).max())
    assert 0.98 * bound < largest <= bound and not conv["bias"].any()


@pytest.mark.parametrize(
    ("given", "wanted"), [((4, 4), (7, 7)), ((4, 4), (16, 16)), ((8, 3), (4, 4)), ((4, 4), (8, 4))]
)
def test_sizes_that_no_rule_matches(given, wanted):
    with pytest.raises(ValueError, match=f"a map of {given[0]}x{given[1]}x3 to {wanted[0]}x{wanted[1]}x5: "):
        Regressor((*wanted, 5)).init(jax.random.key(0), jnp.zeros((1, *given, 3)))
