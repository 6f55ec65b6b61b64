"""A toy objective of a policy of three sub-policies, whose gradient is known by enumeration."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.layers import policy as policies

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
