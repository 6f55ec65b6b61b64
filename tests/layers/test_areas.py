"""Distinctive areas: heads, peaks, boxes and masks against loops, at ties and borders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers.areas import AreaHeads, Areas, boxes, masks, peaks


def slow_peaks(heat, k):
    """(score, channel, y, x) of one map (H, W, C), the largest first."""
    height, width, channels = heat.shape
    scored = []
    for c, y, x in np.ndindex(channels, height, width):
        around = heat[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2, c]
        scored.append((heat[y, x, c] if heat[y, x, c] == around.max() else 0.0, c, y, x))
    return sorted(scored, key=lambda f: -f[0])[:k]  # a stable sort: of equals the first by channel, y, x


def slow_boxes(heat, size, offset, k):
    """Corners x0, y0, x1, y1 of one map."""
    height, width, _ = heat.shape
    all_corners = []
    for _, _, y, x in slow_peaks(heat, k):
        centre = (x + offset[y, x, 0], y + offset[y, x, 1])
        w, h = size[y, x]
        corners = [centre[0] - w / 2, centre[1] - h / 2, centre[0] + w / 2, centre[1] + h / 2]
        last = (width - 1, height - 1, width - 1, height - 1)
        all_corners.append([int(min(max(v, 0), n)) for v, n in zip(corners, last, strict=True)])
    return all_corners


def slow_mask(heat, size, offset, k, overlap):
    mask = np.zeros((*heat.shape[:2], 1))
    for x0, y0, x1, y1 in slow_boxes(heat, size, offset, k):
        mask[y0 : y1 + 1, x0 : x1 + 1] += 1
    return mask if overlap == "sum" else np.minimum(mask, 1)


def case(rng, height=7, width=5, channels=4, b=6, largest=6.0):
    """Heat with ties; boxes of up to twice the map."""
    heat = rng.integers(1, 6, (b, height, width, channels)) / 8
    size, offset = rng.uniform(0, largest, (b, height, width, 2)), rng.uniform(0, 1.5, (b, height, width, 2))
    return Areas(*(np.float32(f) for f in (heat, size, offset)))


@pytest.mark.parametrize("k", [1, 8, 140])
def test_peaks(rng, k):
    heat = case(rng).heat
    ours = jax.jit(peaks, static_argnums=1)(heat, k)
    for i, one in enumerate(heat):
        np.testing.assert_array_equal(np.stack([f[i] for f in ours], 1), np.float32(slow_peaks(one, k)))


def test_peaks_at_ties_and_borders():
    heat = jnp.full((1, 3, 4, 2), 0.5).at[0, 2, 3, 1].set(0.7)
    best = peaks(heat, 3)
    np.testing.assert_array_equal(best.channel, [[1, 0, 0]])  # all of a plain are peaks, the first ones win
    np.testing.assert_array_equal(best.y, [[2, 0, 0]])
    np.testing.assert_array_equal(best.x, [[3, 0, 1]])
    one = peaks(jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(0.9), 2)
    np.testing.assert_allclose(one.score, [[0.9, 0.0]])
    for k in (0, 25):
        with pytest.raises(ValueError, match="k must be 1 to 24, the cells of the heat map"):
            peaks(heat, k)


@pytest.mark.parametrize("largest", [0.0, 2.0, 12.0])
@pytest.mark.parametrize("overlap", ["clip", "sum"])
def test_masks(rng, largest, overlap):
    given = case(rng, largest=largest)
    ours = jax.jit(masks, static_argnums=(3, 4))(*given, 8, overlap)
    assert ours.shape == (6, 7, 5, 1) and ours.dtype == jnp.float32
    slow = np.stack([slow_mask(*one, 8, overlap) for one in zip(*given, strict=True)])
    np.testing.assert_array_equal(ours, slow)
    assert 0 < slow.mean() and (overlap == "clip" or slow.max() > 1)


def test_defaults(rng):
    given = case(rng)
    np.testing.assert_array_equal(masks(*given), masks(*given, 8, "clip"))
    np.testing.assert_array_equal(boxes(*given), boxes(*given, 8))
    with pytest.raises(ValueError, match="overlap must be clip or sum, got 'max'"):
        masks(*given, overlap="max")


def place(y, x, size, offset=(0.0, 0.0), shape=(6, 8)):
    """The box of a single peak."""
    heat = jnp.full((1, *shape, 1), 0.1).at[0, y, x, 0].set(0.9)
    fill = lambda v: jnp.broadcast_to(jnp.array(v), (1, *shape, 2))  # noqa: E731
    return boxes(heat, fill(size), fill(offset), 1)[0, 0].tolist()


def test_boxes():
    assert place(2, 3, (0.0, 0.0)) == [3, 2, 3, 2]  # a cell at least
    assert place(2, 3, (4.0, 2.0)) == [1, 1, 5, 3]  # width before height, both ends in it
    assert place(2, 3, (1.0, 1.0)) == [2, 1, 3, 2]  # 2.5 and 3.5, truncated
    assert place(2, 3, (0.0, 0.0), (0.9, 1.0)) == [3, 3, 3, 3]  # x before y
    assert place(0, 0, (99.0, 3.0)) == [0, 0, 7, 1]
    assert place(5, 7, (3.0, 99.0)) == [5, 0, 7, 5]
    assert place(5, 7, (1.0, 1.0), (9.0, 9.0)) == [7, 5, 7, 5]  # off the map: its corner


def test_no_gradient_through_masks(rng):
    """Once and twice: a mask may stand inside an outer objective."""
    given = case(rng)
    weigh = jnp.float32(rng.normal(0, 1, (6, 7, 5, 1)))

    def loss(heat, size, offset):
        return jnp.sum(weigh * heat[..., :1] ** 3 * masks(heat, size, offset, 4))

    grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*given)
    mask = masks(*given, 4)
    assert 0 < mask.mean() < 1
    np.testing.assert_allclose(grads[0][..., :1], 3 * weigh * given.heat[..., :1] ** 2 * mask, rtol=1e-5)
    assert not grads[0][..., 1:].any() and not grads[1].any() and not grads[2].any()
    twice = jax.jit(jax.grad(lambda heat: jnp.sum(jax.grad(loss)(heat, *given[1:]))))(given.heat)
    np.testing.assert_allclose(twice[..., :1], 6 * weigh * given.heat[..., :1] * mask, rtol=1e-5)


@pytest.mark.parametrize("heat_relu", [False, True])
def test_heads(rng, x64, heat_relu):
    x = np.maximum(rng.normal(0, 2, (2, 5, 4, 3)), 0)
    layer = AreaHeads(channels=7, heat_relu=heat_relu)
    initial = jax.jit(layer.init)(jax.random.key(0), jnp.asarray(x))["params"]
    params = jax.tree.map(lambda p: rng.normal(0, 1, p.shape), initial)
    areas = layer.apply({"params": params}, jnp.asarray(x))
    assert isinstance(areas, Areas)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for name, ours, width in zip(Areas._fields, areas, (7, 2, 2), strict=True):
        first, second = params[f"{name}0"], params[f"{name}1"]
        assert first["kernel"].shape == (3, 3, 3, 3) and second["kernel"].shape == (1, 1, 3, width)
        y = sum(padded[:, i : i + 5, j : j + 4] @ first["kernel"][i, j] for i, j in np.ndindex(3, 3)) + first["bias"]
        y = np.maximum(y, 0) @ second["kernel"][0, 0] + second["bias"]
        if name != "heat" or heat_relu:
            y = np.maximum(y, 0)
        np.testing.assert_allclose(ours, 1 / (1 + np.exp(-y)) if name == "heat" else y, rtol=1e-6)
    assert (float(areas.heat.min()) >= 0.5) == heat_relu


def test_heads_at_the_start():
    params = jax.jit(AreaHeads().init)(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))["params"]
    assert params["heat1"]["kernel"].shape == (1, 1, 32, 100)
    for name, part in params.items():
        bound = (32 * (9 if name.endswith("0") else 1)) ** -0.5
        assert float(jnp.abs(part["kernel"]).max()) <= bound and 0 < float(jnp.abs(part["bias"]).max()) <= bound
