"""What several losses share: lengths, unit vectors, Gram matrices, distances, against loops in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses.common import distances, gram, l2_norm, l2_normalize, upcast


def slow_distances(x, squared=False):
    d = np.zeros((len(x), len(x)))
    for i, j in np.ndindex(d.shape):
        if i != j:
            d[i, j] = max(((x[i] - x[j]) ** 2).sum(), 1e-12)
    return d if squared else np.sqrt(d)


@pytest.mark.parametrize("axis", [-1, 1, (1, 2)])
def test_length_and_unit(rng, x64, axis):
    x = rng.normal(0, 3, (4, 5, 3))
    norm = np.sqrt((x**2).sum(axis, keepdims=True))
    np.testing.assert_allclose(l2_norm(jnp.asarray(x), axis), norm, rtol=1e-12)
    np.testing.assert_allclose(l2_normalize(jnp.asarray(x), axis), x / norm, rtol=1e-12)


def test_a_short_vector_is_divided_by_1e_12(x64):
    x = jnp.array([[3e-13, 4e-13], [3e-11, 4e-11]])
    np.testing.assert_allclose(l2_normalize(x), [[0.3, 0.4], [0.6, 0.8]], rtol=1e-10)


def test_gram(rng, x64):
    a, b = rng.normal(0, 1, (2, 4, 3)), rng.normal(0, 1, (2, 5, 3))
    slow = np.zeros((2, 4, 5))
    for i, n, m in np.ndindex(slow.shape):
        slow[i, n, m] = sum(a[i, n, d] * b[i, m, d] for d in range(3))
    np.testing.assert_allclose(gram(jnp.asarray(a), jnp.asarray(b)), slow, rtol=1e-12)
    np.testing.assert_allclose(gram(jnp.asarray(a)), a @ a.swapaxes(1, 2), rtol=1e-12)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (6, 4)])
def test_distances(rng, x64, shape, squared):
    x = rng.normal(0, 2, shape)
    np.testing.assert_allclose(distances(jnp.asarray(x), squared=squared), slow_distances(x, squared), rtol=1e-9)


def test_distances_of_rows_that_share_much(rng):
    """The Gram matrix of rows far from 0 has no digits left for what they differ in."""
    x = np.float32(rng.normal(0, 1, (8, 16)) + 1000)
    np.testing.assert_allclose(distances(jnp.asarray(x)), slow_distances(np.float64(x)), rtol=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_distances_of_equal_rows(squared):
    """At least 1e-6 (its square), 0 on the diagonal, no gradient between them, and none that is not finite."""
    x = jnp.array([[1.0, 2.0], [1.0, 2.0], [4.0, 6.0]])
    d = distances(x, squared=squared)
    np.testing.assert_allclose(d[0, 1], 1e-12 if squared else 1e-6, rtol=1e-5)
    np.testing.assert_array_equal(jnp.diagonal(d), 0)
    grad = jax.jit(jax.grad(lambda x: distances(x, squared=squared)[0, 1]))(x)
    np.testing.assert_array_equal(grad, 0)
    grad = jax.jit(jax.grad(lambda x: distances(x, squared=squared)[0, 2]))(x)
    np.testing.assert_allclose(grad[2], [6, 8] if squared else [0.6, 0.8], rtol=1e-5)


def test_zeros_stay_zeros_without_gradient():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    for f, value in ((l2_normalize, [[0, 0], [0.6, 0.8]]), (l2_norm, [[0], [5]])):
        out, pull = jax.vjp(f, x)
        np.testing.assert_allclose(out, value, rtol=1e-6)
        (grad,) = pull(jnp.ones_like(out))
        np.testing.assert_array_equal(grad[0], 0)
        assert grad[1].any()


@pytest.mark.parametrize("f", [l2_normalize, l2_norm, gram, distances], ids=lambda f: f.__name__)
def test_gradients_against_finite_differences(rng, x64, f):
    x, weights = rng.normal(0, 1, (2, 4, 3))
    weights = jnp.asarray(rng.normal(0, 1, f(jnp.asarray(x)).shape))
    loss = jax.jit(lambda x: jnp.vdot(weights, f(x)))
    grad = jax.jit(jax.grad(loss))(jnp.asarray(x))
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        np.testing.assert_allclose(grad[i], (loss(x + step) - loss(x - step)) / 2e-6, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("f", [l2_normalize, l2_norm, gram, distances, partial(distances, squared=True)])
def test_a_nan_is_not_hidden(f):
    assert np.isnan(f(jnp.array([[jnp.nan, 1.0], [2.0, 3.0]]))).any()


def test_wide():
    for given, got in ((jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float32), (jnp.float32, jnp.float32)):
        assert upcast(jnp.ones(2, given))[0].dtype == got
    with jax.enable_x64(True):
        assert upcast(jnp.ones(2, jnp.float64))[0].dtype == jnp.float64
