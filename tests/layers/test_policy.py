"""The two estimators on a toy objective whose gradient is known by enumeration; what a draw is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax.layers import policy as policies
from kd_jax.layers.keys import fold

SIZE, TRIALS = 3, 40_000
TABLE = np.array([[[1.0, -0.5], [2.0, 0.4]], [[-1.6, 0.2], [-0.4, 1.0]], [[0.3, 2.2], [-0.6, 0.8]]])  # k, on, on


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def example(estimator="relax", equal=False):
    policy = policies.init(jax.random.key(5), estimator=estimator, size=SIZE)
    if not equal:
        policy["weight"] = jnp.array([0.8, -0.3, 0.1])
        policy["probability"] = jnp.array([[0.3, 0.6], [0.8, 0.45], [0.15, 0.5]])
    return policy


def keys(n=TRIALS, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def chances(policy):
    w = np.exp(np.asarray(policy["weight"], np.float64))
    return np.asarray(policy["probability"], np.float64), w / w.sum()


def means(p, table=TABLE):
    """(S,): the objective of each sub-policy, over its four cases."""
    return np.array(
        [
            sum(table[k, a, b] * (p[k, 0] if a else 1 - p[k, 0]) * (p[k, 1] if b else 1 - p[k, 1]) for a, b in CASES)
            for k in range(len(p))
        ]
    )


CASES = [(a, b) for a in (0, 1) for b in (0, 1)]


def exact(policy):
    """Gradients in probability and weight by enumeration and differences."""

    def mean(p, w):
        share = np.exp(w) / np.exp(w).sum()
        return share @ means(p)

    p, w = (np.asarray(policy[name], np.float64) for name in ("probability", "weight"))
    grads = {"probability": np.zeros_like(p), "weight": np.zeros_like(w)}
    for at in np.ndindex(*p.shape):
        step = np.zeros_like(p)
        step[at] = 1e-5
        grads["probability"][at] = (mean(p + step, w) - mean(p - step, w)) / 2e-5
    for at in range(len(w)):
        step = 1e-5 * np.eye(len(w))[at]
        grads["weight"][at] = (mean(p, w + step) - mean(p, w - step)) / 2e-5
    return grads


def within(samples, truth, errors=4):
    """The mean of samples is the truth, within this many standard errors; none of which may be too large to tell."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(0) / len(samples) ** 0.5
    assert error.max() < 0.1
    assert (abs(samples.mean(0) - truth) <= errors * error + 1e-12).all(), (samples.mean(0), truth, error)


@partial(jax.jit, static_argnames="estimator")
@partial(jax.vmap, in_axes=(None, 0, None))
def drawn(policy, key, estimator):
    return policies.draw(policy, key, estimator=estimator)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, None))
def relax(policy, key, table):
    """RELAX's estimate of the toy objective's gradient, one for every key."""
    d = policies.draw(policy, key, estimator="relax")
    on = d.on.astype(int)
    return policies.score(policy, key, table[d.index, on[0], on[1]])


def multilinear(d, table):
    """The toy objective with soft `on` and weight in it."""
    a, b = d.on
    t = jnp.asarray(table)[d.index]
    return d.weight * ((1 - a) * ((1 - b) * t[0, 0] + b * t[0, 1]) + a * ((1 - b) * t[1, 0] + b * t[1, 1]))


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, None, None))
@jax.grad
def relaxed(policy, key, table, temperature):
    return multilinear(policies.draw(policy, key, estimator="relaxed", temperature=temperature), table)


def test_init():
    policy = policies.init(jax.random.key(0), estimator="relax")
    shapes = jax.tree.map(jnp.shape, policy)
    assert shapes["probability"] == shapes["magnitude"] == (36, 2) and shapes["weight"] == (36,)
    assert shapes["control"]["hidden"] == {"kernel": (108, 100), "bias": (100,)}
    assert shapes["control"]["output"] == {"kernel": (100, 1), "bias": (1,)}
    assert (policy["probability"] == 0.5).all() and (policy["magnitude"] == 0.5).all()
    np.testing.assert_allclose(policy["weight"], 1e-3)
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


@pytest.mark.parametrize("scale", [0, 1, 3], ids=["no control", "random control", "large control"])
def test_relax_is_unbiased(scale):
    policy = example()
    policy["control"] = jax.tree.map(lambda x: scale * (x + 0.1), policy["control"])
    truth = exact(policy)
    samples = relax(policy, keys(), TABLE)
    for name in ("probability", "weight"):
        within(samples[name], truth[name])
        assert abs(truth[name]).max() > 10 * np.asarray(samples[name]).std(0).max() / TRIALS**0.5  # a factor is seen
    assert (samples["magnitude"] == 0).all()


def test_without_control_it_is_the_score_of_the_very_draw():
    policy = example()
    policy["control"] = jax.tree.map(jnp.zeros_like, policy["control"])
    p, share = chances(policy)
    d, g = drawn(policy, keys(), "relax"), relax(policy, keys(), jnp.full_like(TABLE, 2.0))
    every = [np.asarray(x)[:50] for x in (d.index, d.on, g["weight"], g["probability"])]
    for k, on, by_weight, by_probability in zip(*every, strict=True):
        np.testing.assert_allclose(by_weight, 2 * (np.eye(SIZE)[k] - share), rtol=1e-4)
        np.testing.assert_allclose(by_probability[k], 2 * np.where(on > 0, 1 / p[k], -1 / (1 - p[k])), rtol=1e-4)


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
    key, redraw, used = jax.random.key(3), policies._redraw, []
    monkeypatch.setattr(policies, "_redraw", lambda sample, key: used.append(key) or redraw(sample, key))
    policies.score(example(), key, jnp.float32(1.0))
    assert used
    for drawn in (key, *jax.random.split(key)):
        assert all(not np.array_equal(jax.random.key_data(k), jax.random.key_data(drawn)) for k in used)


def test_the_control_learns_to_lower_the_variance():
    policy, batches = example(), [keys(256, seed) for seed in range(1, 41)]

    @jax.jit
    def step(control, keys):
        grads = relax({**policy, "control": control}, keys, TABLE)["control"]
        return jax.tree.map(lambda x, g: x - 0.02 * g.mean(0), control, grads)

    def variance(control):
        g = relax({**policy, "control": control}, keys(seed=99), TABLE)
        return sum(float(g[name].var(0).sum()) for name in ("probability", "weight"))

    start = variance(policy["control"])
    control = policy["control"]
    for batch in batches:
        control = step(control, batch)
    assert variance(control) < 0.8 * start


def test_the_controls_gradient(x64):
    """That of the mean square of the estimate, by differences."""
    policy, key, value = example(), jax.random.key(2), 1.3

    @jax.jit
    def square(control):
        g = policies.score({**policy, "control": control}, key, value)
        return jnp.mean(jnp.concatenate([g["probability"].ravel(), g["weight"]]) ** 2), g["control"]

    grads = square(policy["control"])[1]
    for i in range(3):
        rng = np.random.default_rng(i)
        way = jax.tree.map(lambda x, rng=rng: rng.normal(size=x.shape), grads)
        up, down = (square(jax.tree.map(lambda x, d, h=h: x + h * d, policy["control"], way))[0] for h in (1e-5, -1e-5))
        products = jax.tree.map(lambda g, d: float(np.vdot(g, d)), grads, way)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), (up - down) / 2e-5, rtol=1e-5)


def shrinkage(p, temperature):
    """d E sigmoid(z / temperature) / dp, by a sum over the noise."""
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    soft = sigmoid((np.log(p / (1 - p)) + np.log(u / (1 - u))) / temperature)
    return (soft * (1 - soft)).mean() / temperature / (p * (1 - p))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_relaxed_probability_has_the_stated_bias(temperature):
    policy = example("relaxed")
    factor = np.vectorize(lambda p: shrinkage(p, temperature))(chances(policy)[0])
    samples = relaxed(policy, keys(), TABLE, temperature)["probability"]
    within(samples, factor * exact(policy)["probability"])


def test_the_stated_numbers():
    assert np.allclose([shrinkage(p, 0.5) for p in (0.5, 0.1, 0.9, 0.01)], [0.86, 1.12, 1.12, 1.45], atol=0.006)
    assert abs(share_kept(36, 0.5) - 0.35) < 0.005


def share_kept(size, temperature):
    """Of the truth, equal weights: S / (S - 1) E[s (1 - s)] / temperature, s the drawn entry of the soft weights."""
    z = np.random.default_rng(0).gumbel(size=(200_000, size)) / temperature
    e = np.exp(z - z.max(1, keepdims=True))
    top = e.max(1) / e.sum(1)
    return size / (size - 1) * (top * (1 - top)).mean() / temperature


def test_relaxed_weight_has_the_stated_bias():
    """In proportion to the truth where weights are equal; else even equal objectives have a gradient, of this sign."""
    policy = example("relaxed", equal=True)
    samples = relaxed(policy, keys(), TABLE, 0.5)["weight"]
    within(samples, share_kept(SIZE, 0.5) * exact(policy)["weight"], errors=4.5)
    policy = example("relaxed")
    for constant in (1.0, -1.0):
        mean = np.asarray(relaxed(policy, keys(), jnp.full_like(TABLE, constant), 0.5)["weight"]).mean(0)
        assert constant * mean[0] > 0.02 and constant * mean[1] < 0  # descent: from the largest weight if positive


@pytest.mark.parametrize("estimator", policies.ESTIMATORS)
def test_only_the_drawn_sub_policy(estimator):
    """Relaxed: nobody else's probabilities have a gradient. RELAX: everybody's."""
    policy = example(estimator)
    grads = relaxed(policy, keys(), TABLE, 0.5) if estimator == "relaxed" else relax(policy, keys(), TABLE)
    index = np.asarray(drawn(policy, keys(), estimator).index)
    others = np.asarray(grads["probability"])[np.arange(SIZE) != index[:, None]]
    assert (others == 0).all() if estimator == "relaxed" else (others != 0).all()


@pytest.mark.parametrize("estimator", policies.ESTIMATORS)
def test_descent_finds_the_best(estimator):
    """By plain descent, equal at the start, the sub-policy and the operations that lower the objective win."""
    table = np.zeros((SIZE, 2, 2))
    table[1, 1, 0] = -1.0
    table[2] = 0.5
    start = example(estimator, equal=True)

    tx = optax.adam(0.05)

    def toy(policy, key):
        return multilinear(policies.draw(policy, key, estimator=estimator), table)

    def one(policy, key):
        value, grads = jax.value_and_grad(toy)(policy, key)
        return policies.score(policy, key, value) if estimator == "relax" else grads

    @jax.jit
    def step(policy, state, key):
        grads = jax.vmap(one, (None, 0))(policy, jax.random.split(key, 16))
        updates, state = tx.update(jax.tree.map(lambda g: g.mean(0), grads), state)
        return optax.apply_updates(policy, updates), state

    policy, state = start, tx.init(start)
    for i in range(150):
        policy, state = step(policy, state, jax.random.key(i))
    assert jnp.argmax(policy["weight"]) == 1 and policy["probability"][1, 0] > 0.8 > 0.2 > policy["probability"][1, 1]


def test_second_derivatives_pass():
    """A gradient through a gradient, as the look-ahead of a search takes it."""

    def inner(theta, policy):
        return multilinear(policies.draw(policy, jax.random.key(0), estimator="relaxed"), TABLE) * theta**2

    mixed = jax.jit(jax.grad(lambda policy: jax.grad(inner)(3.0, policy)))(example("relaxed"))
    plain = jax.jit(jax.grad(partial(inner, 1.0)))(example("relaxed"))
    for a, b in zip(jax.tree.leaves(mixed), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, 6 * b, rtol=1e-5)
    assert any((x != 0).any() for x in jax.tree.leaves(plain))
