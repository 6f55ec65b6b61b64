"""What a policy is at its start, and what a draw of it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers import policy as policies
from kd_jax.layers.keys import fold
from tests.layers.toy_policy import SIZE, TABLE, chances, drawn, example, keys, multilinear, relax, within


def test_init():
    policy = policies.init(jax.random.key(0), estimator="relax")
    shapes = jax.tree.map(jnp.shape, policy)
    assert shapes["probability"] == shapes["magnitude"] == (36, 2) and shapes["weight"] == (36,)
    assert shapes["control"]["hidden"] == {"kernel": (108, 100), "bias": (100,)}
    assert shapes["control"]["output"] == {"kernel": (100, 1), "bias": (1,)}
    assert (policy["probability"] == 0.5).all() and (policy["magnitude"] == 0.5).all()
    np.testing.assert_allclose(policy["weight"], 1e-3)
    each = jnp.arange(72.0).reshape(36, 2) / 72
    assert (policies.init(jax.random.key(0), estimator="relax", magnitude=each)["magnitude"] == each).all()
    assert not any(x.weak_type for x in jax.tree.leaves(policy))
    random = policies.init(jax.random.key(0), estimator="relaxed", start="random")
    assert set(random) == {"probability", "weight", "magnitude"}
    assert len(np.unique(random["probability"])) == 72 and 0 <= random["magnitude"].min() < 0.2
    for bad in ({"estimator": "relaxd"}, {"estimator": "relax", "start": "zero"}):
        with pytest.raises(ValueError, match="policy: (estimator|start) must be"):
            policies.init(jax.random.key(0), **bad)


@pytest.mark.parametrize("estimator", policies.ESTIMATORS)
def test_frequencies(estimator):
    policy = example()
    d = drawn(policy, keys(), estimator)
    p, share = chances(policy)
    index, on = np.asarray(d.index), np.asarray(d.on)
    assert set(np.unique(on)) == {0, 1} and (d.weight == 1).all()
    assert (np.asarray(d.magnitudes) == 0.5).all()
    within(index[:, None] == np.arange(SIZE), share)
    for k in range(SIZE):
        switches = on[index == k]
        within(switches, p[k])
        within(switches[:, 0] * switches[:, 1], p[k, 0] * p[k, 1])


def test_estimators_and_temperatures_draw_the_same():
    policy = example()

    @jax.jit
    def both(key):
        relaxed = policies.draw(policy, key, estimator="relaxed", temperature=2.0)
        return policies.draw(policy, key, estimator="relax"), relaxed

    for key in keys()[:9]:
        assert all((x == y).all() for x, y in zip(*both(key), strict=True))


def test_bounds():
    """0 and 1 never fail, what is beyond a bound counts as the bound, and gradients pass there."""
    policy = example("relaxed")
    policy["probability"] = jnp.array([[0.0, 1.0], [-0.2, 1.3], [0.0, 1.0]])
    policy["magnitude"] = jnp.array([[-1.0, 0.3], [0.2, 1.5], [2.0, -0.1]])
    d = drawn(policy, keys(), "relaxed")
    assert (np.asarray(d.on) == [0, 1]).all()
    clipped = np.array([[0.0, 0.3], [0.2, 1.0], [1.0, 0.0]], np.float32)
    assert (np.asarray(d.magnitudes) == clipped[np.asarray(d.index)]).all()

    @jax.jit
    @jax.grad
    def total(m):
        return policies.draw({**policy, "magnitude": m}, keys()[0], estimator="relaxed").magnitudes.sum()

    assert (total(policy["magnitude"]) == np.eye(SIZE)[d.index[0]][:, None] * np.ones(2)).all()
    policy |= {"weight": jnp.array([300.0, 0.0, -300.0]), "control": example()["control"]}
    g = relax(policy, keys(), TABLE)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(g))
    assert (g["probability"] != 0).any(0).all()


@pytest.mark.parametrize("noise", [-20.0, 20.0])
def test_zero_and_one_never_fail(monkeypatch, noise):
    """Not even in the one draw of a million whose noise outdoes the clipped logit."""
    monkeypatch.setattr(jax.random, "logistic", lambda key, shape, dtype: jnp.full(shape, noise, dtype))
    policy = example() | {"probability": jnp.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])}
    on = policies._sample(policy, jax.random.key(0)).on
    assert on.tolist() == [[0, 1], [noise > 0] * 2, [1, 0]]


def test_draw_under_relax_has_no_gradient_but_magnitudes():
    @jax.jit
    @jax.grad
    def one(policy, key):
        d = policies.draw(policy, key, estimator="relax")
        return multilinear(d, TABLE) + d.magnitudes @ jnp.array([2.0, 3.0])

    key = jax.random.key(1)
    policy = example()
    g = one(policy, key)
    assert (g["probability"] == 0).all() and (g["weight"] == 0).all()
    k = int(policies.draw(policy, key, estimator="relax").index)
    np.testing.assert_allclose(g["magnitude"], np.eye(SIZE)[k][:, None] * [2.0, 3.0])


def test_redrawn_values_are_of_the_same_distribution():
    """Jointly with the draw: how often each of z, by quarters of its range, comes with each sub-policy and `on`."""
    policy = example()

    def one(key):
        s = policies._sample(policy, key)
        again = policies._redraw(s, fold(key, "redraw"))
        cuts = jnp.array([-1.0, 0.0, 1.0])
        drawn = jnp.arange(SIZE) == s.index

        def quarters(z_on, z_index):
            places = (z_index[:, None] > cuts)[:, None] & drawn[:, None]
            return places, (z_on[..., None] > cuts) & (s.on > 0)[..., None], z_on > cuts[0]

        first, second = quarters(s.z_on, s.z_index), quarters(*again)
        fits = (jnp.argmax(again[1]) == s.index) & ((again[0] > 0) == (s.on > 0)).all()
        return jax.tree.map(lambda a, b: a * 1.0 - b, first, second), fits, again[0] != s.z_on

    differences, fits, fresh = jax.jit(jax.vmap(one))(keys())
    assert fits.all() and fresh.all()
    for difference in differences:
        within(difference, 0)


def test_a_redraw_has_a_key_of_its_own(monkeypatch):
    """Neither the key of the draw nor one of those that the draw splits it into."""
    key, redraw = jax.random.key(3), policies._redraw

    @jax.jit
    def keys_of_redraws(policy):
        used = []
        monkeypatch.setattr(policies, "_redraw", lambda sample, key: used.append(key) or redraw(sample, key))
        policies.score(policy, key, jnp.float32(1.0))
        return used

    used = keys_of_redraws(example())
    assert used
    for other in (key, *jax.random.split(key)):
        assert all(not np.array_equal(jax.random.key_data(k), jax.random.key_data(other)) for k in used)
