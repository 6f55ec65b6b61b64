"""The two estimators on a toy objective whose gradient is known by enumeration."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax.layers import policy as policies
from tests.layers.toy_policy import (
    SIZE,
    TABLE,
    TRIALS,
    chances,
    drawn,
    exact,
    example,
    keys,
    multilinear,
    relax,
    relaxed,
    sigmoid,
    within,
)


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
