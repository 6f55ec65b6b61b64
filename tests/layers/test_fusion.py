"""ReviewKD's fusion, VID's projector and OFD's connector: arithmetic, start, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers.fusion import Fusion, nearest
from kd_jax.layers.projector import Connector, Projector


def normed(x, bn):
    """BatchNorm in training, of maps (B, H, W, C)."""
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * bn["scale"] + bn["bias"]


def slow_nearest(x, height, width):
    out = np.zeros((len(x), height, width, x.shape[-1]))
    for i, j in np.ndindex(height, width):
        out[:, i, j] = x[:, int(np.floor(i * x.shape[1] / height)), int(np.floor(j * x.shape[2] / width))]
    return out


def slow_fusion(p, x, deeper, size):
    x = normed(x @ p["conv1"]["kernel"][0, 0], p["bn1"])
    if deeper is not None:
        y = slow_nearest(deeper, *x.shape[1:3])
        gates = np.concatenate([x, y], -1) @ p["attention"]["kernel"][0, 0] + p["attention"]["bias"]
        gates = 1 / (1 + np.exp(-gates))
        x = x * gates[..., 0, None] + y * gates[..., 1, None]
    x = slow_nearest(x, *size)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = sum(
        padded[:, a : a + size[0], b : b + size[1]] @ p["conv2"]["kernel"][a, b] for a in range(3) for b in range(3)
    )
    return normed(out, p["bn2"]), x


CASES = {  # own size, the deeper result's, the wanted one
    "pooled": ((1, 1), None, (1, 1)),
    "published": ((4, 4), (1, 1), (8, 8)),
    "smaller wanted": ((8, 8), (4, 4), (4, 4)),
    "deeper is larger": ((2, 3), (5, 4), (2, 3)),
    "odd": ((7, 5), (3, 2), (5, 9)),
}


@pytest.mark.parametrize("case", CASES)
def test_fusion(rng, x64, case):
    size, below, wanted = CASES[case]
    layer, x = Fusion((*wanted, 5), 4), jnp.asarray(rng.normal(0, 1, (6, *size, 3)))
    deeper = None if below is None else jnp.asarray(rng.normal(0, 1, (6, *below, 4)))
    variables = jax.jit(layer.init)(jax.random.key(0), x, deeper)
    assert ("attention" in variables["params"]) == (below is not None)
    params = jax.tree.map(lambda p: rng.normal(0, 1, p.shape), variables["params"])
    apply = jax.jit(lambda v, x, d: layer.apply(v, x, d, True, mutable=["batch_stats"]))
    (out, result), moved = apply({**variables, "params": params}, x, deeper)
    slow = slow_fusion(params, np.asarray(x), None if deeper is None else np.asarray(deeper), wanted)
    assert out.shape == (6, *wanted, 5) and result.shape == (6, *wanted, 4)
    for ours, theirs in zip((out, result), slow, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    mean = (np.asarray(x) @ params["conv1"]["kernel"][0, 0]).mean((0, 1, 2))
    np.testing.assert_allclose(moved["batch_stats"]["bn1"]["mean"], 0.1 * mean, rtol=1e-5, atol=1e-7)
    assert set(moved["batch_stats"]) == {"bn1", "bn2"}


def test_running_statistics_are_used_outside_training(rng):
    x = jnp.float32(rng.normal(0, 1, (2, 2, 2, 3)))
    layer = Fusion((2, 2, 5), 4)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    result = jax.jit(layer.apply)(variables, x)[1]
    np.testing.assert_allclose(
        result, np.asarray(x) @ np.asarray(variables["params"]["conv1"]["kernel"])[0, 0] / (1 + 1e-5) ** 0.5, rtol=1e-5
    )


def test_start_of_fusion():
    """U(-1, 1) sqrt(3 / fan in); of the attention U(-1, 1) / sqrt(fan in), its bias too."""
    maps = jnp.zeros((1, 2, 2, 32)), jnp.zeros((1, 1, 1, 64))
    params = jax.jit(Fusion((2, 2, 64), 64).init)(jax.random.key(0), *maps)["params"]
    bounds = {"conv1": (3 / 32) ** 0.5, "conv2": (3 / (9 * 64)) ** 0.5, "attention": 128**-0.5}
    for name, bound in bounds.items():
        assert 0.95 * bound < float(jnp.abs(params[name]["kernel"]).max()) <= bound, name
    assert 0 < float(jnp.abs(params["attention"]["bias"]).max()) <= 128**-0.5
    assert "bias" not in params["conv1"] and "bias" not in params["conv2"]


def test_nearest_by_hand():
    cases = {
        (4, 8): [0, 0, 1, 1, 2, 2, 3, 3], (8, 4): [0, 2, 4, 6], (3, 5): [0, 0, 1, 1, 2], (5, 3): [0, 1, 3],
        (1, 3): [0, 0, 0], (3, 1): [0],
    }  # fmt: skip
    rows = jax.jit(lambda: [nearest(jnp.arange(n)[None, None, :, None], (1, want)) for n, want in cases])()
    assert [x.ravel().tolist() for x in rows] == [*cases.values()]


def test_projector(rng, x64):
    x = jnp.asarray(rng.normal(0, 1, (2, 3, 4, 3)))
    variables = jax.jit(Projector(5).init)(jax.random.key(0), x)
    kernels = [variables["params"][f"conv{i}"]["kernel"] for i in range(3)]
    assert [k.shape for k in kernels] == [(1, 1, 3, 5), (1, 1, 5, 5), (1, 1, 5, 5)]
    assert set(variables) == {"params"} and all(set(p) == {"kernel"} for p in variables["params"].values())
    first, second, third = (np.asarray(k[0, 0]) for k in kernels)
    slow = np.maximum(np.maximum(np.asarray(x) @ first, 0) @ second, 0) @ third
    assert (slow < 0).any()  # no ReLU at the end
    np.testing.assert_allclose(jax.jit(Projector(5).apply)(variables, x), slow, rtol=1e-6, atol=1e-7)
    wide = jax.jit(Projector(64).init)(jax.random.key(0), jnp.zeros((1, 1, 1, 16)))["params"]
    for name, fan_in in (("conv0", 16), ("conv1", 64), ("conv2", 64)):
        assert 0.95 * fan_in**-0.5 < float(jnp.abs(wide[name]["kernel"]).max()) <= fan_in**-0.5


def test_connector(rng, x64):
    x = jnp.asarray(rng.normal(0, 1, (2, 3, 4, 3)))
    variables = jax.jit(Connector(5).init)(jax.random.key(0), x)
    params = jax.tree.map(lambda p: rng.normal(0, 1, p.shape), variables["params"])
    apply = jax.jit(lambda v: Connector(5).apply(v, x, True, mutable=["batch_stats"]))
    out, _ = apply({**variables, "params": params})
    slow = normed(np.asarray(x) @ params["conv"]["kernel"][0, 0], params["bn"])
    assert (slow < 0).any() and set(params["conv"]) == {"kernel"}
    np.testing.assert_allclose(out, slow, rtol=1e-6, atol=1e-7)
    kernel = jax.jit(Connector(64).init)(jax.random.key(0), jnp.zeros((1, 1, 1, 128)))["params"]["conv"]["kernel"]
    np.testing.assert_allclose(float(kernel.std()), (2 / 64) ** 0.5, rtol=0.05)  # by what goes out, not in
    assert float(jnp.abs(kernel).max()) > 3 * (2 / 64) ** 0.5  # a normal distribution, not cut off
