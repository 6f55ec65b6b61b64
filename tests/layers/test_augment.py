"""Each operation against loops over cells in float64, pairs against operations, gradients against differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers.augment import FUNCTIONS, OPERATIONS, PAIRS, apply_pair, first_magnitudes, straight_through

SIGNED = OPERATIONS[:5]
EXACT = OPERATIONS[:7]  # the gradient in the magnitude is the derivative
CASES = [  # shape, key, magnitude, published; the keys have both signs
    ((2, 4, 4, 3), 1, 1.0, False),
    ((2, 5, 7, 4), 3, 0.37, False),
    ((1, 6, 3, 1), 1, 0.8, True),
    ((1, 1, 1, 2), 3, 0.6, False),
]


def amount(limit, m, key, published):
    return limit * (2 * m - 1) if published else limit * m * float(jax.random.rademacher(key, ()))


def read(x, row, col):
    """x at one position: every cell weighs by its distance, and what is not a cell is 0."""
    _, h, w, _ = x.shape
    total = np.zeros(x.shape[::3])
    for i in range(h):
        for j in range(w):
            total += max(0, 1 - abs(row - i)) * max(0, 1 - abs(col - j)) * x[:, i, j]
    return total


def geometric(name, x, m, key, published):
    _, h, w, _ = x.shape
    out = np.zeros_like(x)
    limit = {"Shear": 0.3, "Trans": 0.45, "Rotat": np.deg2rad(30)}[name[:5]]
    a = amount(limit, m, key, published)
    for i in range(h):
        for j in range(w):
            up, right = i - (h - 1) / 2, j - (w - 1) / 2
            row, col = {
                "ShearX": (i, j + a * up),
                "ShearY": (i + a * right, j),
                "TranslateX": (i, j + a * w),
                "TranslateY": (i + a * h, j),
                "Rotate": (
                    (h - 1) / 2 + np.cos(a) * up - np.sin(a) * right,
                    (w - 1) / 2 + np.sin(a) * up + np.cos(a) * right,
                ),
            }[name]
            out[:, i, j] = read(x, row, col)
    return out


def cutout(x, m, key, fine=400):
    """The share of each cell outside the box, by counting."""
    out = x.copy()
    _, h, w, _ = x.shape
    shares = []
    for size, k in zip((h, w), jax.random.split(key), strict=True):
        centre = size * float(jax.random.uniform(k, (), x.dtype))
        points = (np.arange(size * fine) + 0.5) / fine
        shares.append((abs(points - centre) < 0.1 * m * size).reshape(size, fine).mean(1))
    for i in range(h):
        for j in range(w):
            out[:, i, j] *= 1 - shares[0][i] * shares[1][j]
    return out


def noise(x, m, key):
    return x + 0.1 * m * np.asarray(jax.random.normal(key, x.shape, x.dtype))


def shuffle(x, m, key, published):
    which, how = jax.random.split(key)
    c = x.shape[-1]
    n = c if published else round(m * c)
    chosen = [int(i) for i in jax.random.permutation(which, c)[:n]]
    ranks = np.asarray(jax.random.uniform(how, (c,)))
    out = x.copy()
    for to, source in zip(chosen, sorted(chosen, key=lambda i: ranks[i]), strict=True):
        out[..., to] = x[..., source]
    return out


def drop(x, m, key):
    out, u = x.copy(), np.asarray(jax.random.uniform(key, x.shape[-1:], x.dtype))
    for c, value in enumerate(u):
        if value >= 1 - 0.5 * m:
            out[..., c] = 0
    return out


def slow(name, x, m, key, published=False):
    if name in SIGNED:
        return geometric(name, x, m, key, published)
    if name == "ChannelShuffle":
        return shuffle(x, m, key, published)
    return {"Cutout": cutout, "Noise": noise, "ChannelDrop": drop}[name](x, m, key)


def near(name):
    return 1e-2 if name == "Cutout" else 1e-12  # its box is counted in points


@pytest.mark.parametrize("name", OPERATIONS)
def test_against_loops(rng, x64, name):
    maps = [rng.normal(size=shape) for shape, *_ in CASES]
    keys = jax.random.split(jax.random.key(0), 9)[np.array([key for _, key, *_ in CASES])]

    @jax.jit
    def fast(maps, magnitudes, keys):
        each = zip(maps, magnitudes, keys, CASES, strict=True)
        return [FUNCTIONS[name](x, m, key, published=case[3]) for x, m, key, case in each]

    ours = fast(maps, jnp.array([m for *_, m, _ in CASES]), keys)
    for out, x, key, (_, _, m, published) in zip(ours, maps, keys, CASES, strict=True):
        np.testing.assert_allclose(out, slow(name, x, m, key, published), atol=near(name), rtol=0)
    assert {float(jax.random.rademacher(key, ())) for key in keys} == {-1, 1}


@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitude_zero_is_the_identity(rng, name):
    """Bit for bit, with either sign. And what the published magnitudes are: of the first five 0.5 is the identity, 0
    and 1 are ours of both signs; the shuffle ignores its own; the rest is as it is."""
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 6)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 6)

    @jax.jit
    def run(x, keys):
        def of(published):
            def one(m, key):
                return FUNCTIONS[name](x, m, key, published=published)

            return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(jnp.array([0.0, 0.5, 1.0]), keys)

        return of(False), of(True)

    (zero, half, one), published = run(x, keys)
    assert zero.dtype == x.dtype and (zero == x).all() and (one != x).any() and (half != x).any()
    if name in SIGNED:
        assert (published[1] == x).all()
        ends = abs(one[:, None] - published[::2, 0]).max(axis=(2, 3, 4, 5)) < 1e-5
        assert (ends.sum(1) == 1).all() and ends.any(0).all()
    elif name == "ChannelShuffle":
        assert (published == one).all()
    else:
        assert (published == jnp.stack([zero, half, one])).all()


def test_sizes_of_the_changes():
    """What a magnitude of 1 means, on a map that is 1 in one cell."""
    x = jnp.zeros((1, 20, 20, 1)).at[0, 10, 10, 0].set(1.0)
    far = jnp.zeros((1, 20, 20, 1)).at[0, 0, 9, 0].set(1.0)
    keys = jax.random.split(jax.random.key(0), 50)

    @jax.jit
    def run(key):
        cut = jax.vmap(lambda k: 400 - FUNCTIONS["Cutout"](jnp.ones((1, 20, 20, 1)), 1.0, k).sum())(keys)
        return FUNCTIONS["TranslateX"](x, 1.0, key), FUNCTIONS["Rotate"](far, 1.0, key), cut

    moved, turned, cut = (np.asarray(a) for a in run(keys[0]))
    assert np.argwhere(moved[0, ..., 0]).tolist() in ([[10, 1]], [[10, 19]])  # 0.45 x 20 cells
    assert np.isclose(cut.max(), 16, atol=1e-3) and cut.min() > 3.9  # 4 x 4 cells, a quarter of it in a corner
    away = np.argwhere(turned[0, ..., 0] > 0.2) - 9.5
    assert abs(abs(np.rad2deg(np.arctan2(away[:, 1], -away[:, 0])).mean()) - 30) < 6


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients(rng, x64, name):
    """In the magnitude, as both read it, and in the map."""
    x, r = rng.normal(size=(2, 2, 5, 6, 4))
    key = jax.random.key(1)

    @jax.jit
    def values(x, m, key):
        def one(x, m, published):
            return jnp.sum(r * FUNCTIONS[name](x, m, key, published=published))

        return [jax.value_and_grad(one, (0, 1))(x, m, published) for published in (False, True)]

    middle, high, low = (values(x, m, key) for m in (0.63, 0.63 + 1e-6, 0.63 - 1e-6))
    near, far = (values(x + step * r, 0.63, key) for step in (-1e-6, 1e-6))
    for (_, (map_grad, grad)), up, down, a, b in zip(middle, high, low, near, far, strict=True):
        if name in EXACT:
            assert abs(grad) > 1e-3
            np.testing.assert_allclose(grad, (up[0] - down[0]) / 2e-6, rtol=1e-6)
        else:
            np.testing.assert_allclose(grad, -0.5 * np.sum(r * x) if name == "ChannelDrop" else 0, rtol=1e-12)
        np.testing.assert_allclose(np.vdot(map_grad, r), (b[0] - a[0]) / 2e-6, rtol=1e-6)


def test_channel_drop_keeps_the_mean_that_its_gradient_is_of():
    keys = jax.random.split(jax.random.key(0), 4000)
    dropped = jax.jit(jax.vmap(lambda k: FUNCTIONS["ChannelDrop"](jnp.ones((2, 1, 1, 5)), 0.6, k)))(keys)
    assert (dropped[:, 0] == dropped[:, 1]).all()  # the same for all examples
    np.testing.assert_allclose(dropped.mean(0), 0.7, atol=4 * (0.21 / 4000) ** 0.5)


def test_channel_shuffle_is_uniform():
    """Of 4 channels half is permuted: 1/12 for every swap, else nothing."""
    keys = jax.random.split(jax.random.key(0), 6000)
    x = jnp.arange(4.0).reshape(1, 1, 1, 4)
    out = jax.jit(jax.vmap(lambda k: FUNCTIONS["ChannelShuffle"](x, 0.5, k)))(keys).reshape(-1, 4)
    orders, times = np.unique(np.asarray(out), axis=0, return_counts=True)
    assert len(orders) == 7 and (np.sort(orders) == np.arange(4)).all()
    np.testing.assert_allclose(np.sort(times) / 6000, [1 / 12] * 6 + [1 / 2], atol=4 * (0.25 / 6000) ** 0.5)


def test_pairs():
    assert PAIRS.shape == (36, 2) and (PAIRS[:, 0] < PAIRS[:, 1]).all() and len({tuple(p) for p in PAIRS}) == 36
    assert OPERATIONS[0] == "ShearX" and OPERATIONS[-1] == "ChannelDrop" and len(OPERATIONS) == 9


def test_every_pair_is_its_operations_one_after_the_other(rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 6)), jnp.float32)
    magnitudes, on = jnp.array([0.8, 0.6]), jnp.ones(2)
    run = jax.jit(apply_pair)
    single = {name: jax.jit(f) for name, f in FUNCTIONS.items()}
    for i, (a, b) in enumerate(PAIRS):
        first, second = jax.random.split(jax.random.key(i))
        by_hand = single[OPERATIONS[a]](x, magnitudes[0], first)
        by_hand = single[OPERATIONS[b]](by_hand, magnitudes[1], second)
        ours = run(x, jnp.asarray(PAIRS)[i], on, magnitudes, jax.random.key(i))
        np.testing.assert_allclose(ours, by_hand, atol=1e-6)
    assert run._cache_size() == 1
    text = run.lower(x, jnp.asarray(PAIRS)[0], on, magnitudes, jax.random.key(0)).as_text()
    assert text.count("stablehlo.case") == 1  # a choice, not nine results and a selection


@pytest.mark.parametrize("published", [False, True])
def test_where_a_search_starts_nothing_moves(rng, published):
    """As in public code: shears, translations and rotations change nothing, the other four do."""
    start, x = first_magnitudes(published=published), jnp.asarray(rng.normal(size=(2, 5, 4, 6)), jnp.float32)
    run = jax.jit(partial(apply_pair, published=published))
    for pair, magnitudes in zip(PAIRS, start, strict=True):
        out = run(x, jnp.asarray(pair), jnp.ones(2), magnitudes, jax.random.key(1))
        assert (out == x).all() == (pair < 5).all()


def test_on(rng, x64):
    """0 and 0 is the map itself; a 0 leaves its operation out; the gradient in `on` is what the operation changes."""
    x, r = rng.normal(size=(2, 2, 4, 5, 3))
    magnitudes, key = jnp.array([0.7, 0.9]), jax.random.key(0)

    @jax.jit
    def alone(x):
        first, second = jax.random.split(key)
        return FUNCTIONS["ShearY"](x, magnitudes[0], first), FUNCTIONS["Cutout"](x, magnitudes[1], second)

    @jax.jit
    def run(on):
        def scored(on, magnitudes):
            out = apply_pair(jnp.asarray(x), jnp.array([1, 5]), on, magnitudes, key)
            return jnp.vdot(r, out), out

        (_, out), grads = jax.value_and_grad(scored, (0, 1), has_aux=True)(on, magnitudes)
        return out, grads

    sheared, cut = alone(x)
    out, grads = run(jnp.zeros(2))
    assert (out == x).all() and (grads[1] == 0).all()
    np.testing.assert_allclose(grads[0], [np.vdot(r, sheared - x), np.vdot(r, cut - x)], rtol=1e-10)
    out, grads = run(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(out, sheared, atol=1e-12)
    assert grads[1][0] != 0 and grads[1][1] == 0
    np.testing.assert_allclose(run(jnp.array([0.0, 1.0]))[0], cut, atol=1e-12)


def test_published_reaches_the_pairs(rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 6)), jnp.float32)
    run = jax.jit(partial(apply_pair, published=True))
    outs = [run(x, jnp.array([0, 4]), jnp.ones(2), jnp.full(2, m), jax.random.key(0)) for m in (0.5, 0.6)]
    assert (outs[0] == x).all() and (outs[1] != x).any()


def test_straight_through():
    def f(a):
        return jnp.sum(straight_through(jnp.round(a) + 3 * a, a**3))

    a = jnp.array([0.4, 1.7])
    value, grad, tangent, second = jax.jit(
        lambda a: (f(a), jax.grad(f)(a), jax.jvp(f, (a,), (jnp.ones(2),))[1], jax.hessian(f)(a))
    )(a)
    np.testing.assert_allclose(value, 2 + 3 * 2.1, rtol=1e-6)
    np.testing.assert_allclose(grad, 3 * a**2, rtol=1e-6)
    np.testing.assert_allclose(tangent, jnp.sum(3 * a**2), rtol=1e-6)
    np.testing.assert_allclose(second, jnp.diag(6 * a), rtol=1e-6)
