"""DIST and standardised logits against slow references in float64, their gradients and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.losses import logits as all_losses
from tests.losses.test_logits import EXTREME, case, softmax


def slow_pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return sum(x * y) / (np.sqrt(sum(x * x)) * np.sqrt(sum(y * y)) + 1e-8)


def slow_dist(student, teacher, beta=1.0, gamma=1.0, t=1.0):
    p, q = (np.array([softmax(row / t) for row in z]) for z in (student, teacher))
    inter = 1 - np.mean([slow_pearson(p[i], q[i]) for i in range(len(p))])
    intra = 1 - np.mean([slow_pearson(p[:, k], q[:, k]) for k in range(p.shape[1])])
    return t**2 * (beta * inter + gamma * intra)


def slow_standardize(logits):
    return np.array([(z - z.mean()) / (np.sqrt(((z - z.mean()) ** 2).sum() / (len(z) - 1)) + 1e-7) for z in logits])


dist, standardize = jax.jit(all_losses.dist), jax.jit(all_losses.standardize)


@pytest.mark.parametrize(("b", "k"), [(6, 7), (2, 2), (3, 100)])
@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0), (0.0, 1.0, 1.0)])
def test_dist_float64_reference(rng, x64, b, k, beta, gamma, temperature):
    student, teacher, _ = case(rng, b, k)
    ours = dist(student=student, teacher=teacher, beta=beta, gamma=gamma, temperature=temperature)
    assert ours.shape == ()
    # 1 minus a correlation: near 0 its digits are those of 1
    np.testing.assert_allclose(ours, slow_dist(student, teacher, beta, gamma, temperature), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("k", [2, 7, 100])
def test_standardize_float64_reference(rng, x64, k):
    z = rng.normal(5, 3, (6, k))
    ours = standardize(jnp.asarray(z))
    np.testing.assert_allclose(ours, slow_standardize(z), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.std(-1, ddof=1), 1, rtol=1e-6)
    np.testing.assert_allclose(standardize(3 * z - 100), ours, rtol=1e-6, atol=1e-6)


def wave(*shape):
    return jnp.sin(jnp.arange(float(np.prod(shape)))).reshape(shape)


def test_dist_and_standardize_have_the_published_numbers(x64):
    """DIST's class with temperature, and LSKD's kd_loss with standardisation at T = 2, run in float64."""
    z, y = 3 * wave(5, 7), 2 * wave(5, 7) ** 2
    np.testing.assert_allclose(dist(student=z, teacher=y), 1.0857804905407695, rtol=1e-12)
    ours = dist(student=z, teacher=y, beta=2.0, gamma=3.0, temperature=4.0)
    np.testing.assert_allclose(ours, 62.47526073259384, rtol=1e-12)
    ours = losses.kd(student=standardize(z), teacher=standardize(y), temperature=2.0)
    np.testing.assert_allclose(ours.mean(), 0.7948192951273236, rtol=1e-12)


def test_dist_and_standardize_in_float32_and_half_precision(rng):
    student, teacher = jnp.bfloat16(rng.normal(0, 3, (2, 32, 100)))
    wide = [np.float32(z) for z in (student, teacher)]
    ours = dist(student=student, teacher=teacher, temperature=4.0)
    assert ours.dtype == standardize(student).dtype == jnp.float32
    np.testing.assert_array_equal(ours, dist(student=wide[0], teacher=wide[1], temperature=4.0))
    np.testing.assert_allclose(ours, slow_dist(*map(np.float64, wide), t=4.0), rtol=1e-5)
    np.testing.assert_allclose(standardize(student), slow_standardize(np.float64(wide[0])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dist", "standardize"])
def test_their_gradients_against_finite_differences(rng, x64, name):
    both, weights = jnp.asarray(rng.normal(0, 1, (2, 2, 4, 3)))

    def loss(z):
        if name == "dist":
            return all_losses.dist(student=z[0], teacher=z[1], beta=2.0, temperature=1.5)
        return jnp.vdot(weights, all_losses.standardize(z.reshape(8, 3)).reshape(2, 4, 3))

    exact, loss = jax.jit(jax.grad(loss))(both), jax.jit(loss)
    assert (jnp.abs(exact).max(axis=(1, 2)) > 1e-3).all()
    for i in np.ndindex(both.shape):
        slope = (loss(both.at[i].add(1e-6)) - loss(both.at[i].add(-1e-6))) / 2e-6
        np.testing.assert_allclose(exact[i], slope, rtol=1e-5, atol=1e-8)


def test_dist_sees_correlation_only(rng, x64):
    """Equal to the teacher it is 0; probabilities that are an affine function of the teacher's correlate too."""
    student, teacher, _ = (jnp.asarray(v) for v in case(rng, scale=1.0))
    np.testing.assert_allclose(dist(student=teacher + 3, teacher=teacher), 0, atol=1e-5)
    near = jnp.log(0.5 * jax.nn.softmax(teacher) + 0.5 / teacher.shape[1])
    np.testing.assert_allclose(dist(student=near, teacher=teacher), 0, atol=1e-5)
    assert dist(student=student, teacher=teacher) > 0.1
    order = jnp.array([3, 0, 5, 1, 2, 4])
    value = dist(student=student[order], teacher=teacher[order])
    np.testing.assert_allclose(value, dist(student=student, teacher=teacher), rtol=1e-10)


@pytest.mark.parametrize("b", [1, 3])
def test_dist_and_standardize_are_finite(b):
    def both(s, t):
        return all_losses.dist(student=s, teacher=t), standardize(s).sum() + (standardize(s) * standardize(t)).sum()

    check = jax.jit(lambda s, t: (both(s, t), jax.grad(lambda s, t: sum(both(s, t)), (0, 1))(s, t)))
    for teacher in EXTREME:
        for student in EXTREME:
            results = check(*(jnp.broadcast_to(jnp.float32(z), (b, 4)) for z in (student, teacher)))
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(results)), (student, teacher)
    np.testing.assert_array_equal(standardize(jnp.zeros((2, 3))), 0)
    np.testing.assert_allclose(
        standardize(jnp.array([[0.0, -np.inf, -np.inf]])), standardize(jnp.eye(3)[:1]), rtol=1e-6
    )
    assert np.isnan(dist(student=jnp.full((2, 3), jnp.nan), teacher=jnp.eye(3)[:2]))
    assert np.isnan(standardize(jnp.array([[jnp.nan, 0.0, 1.0]]))).all()


def test_refusals_of_dist_and_standardize():
    z = jnp.zeros((2, 3))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="dist: temperature must be"):
            all_losses.dist(student=z, teacher=z, temperature=temperature)
    with pytest.raises(ValueError, match="standardize: needs at least 2 classes, got 1"):
        all_losses.standardize(z[:, :1])
    with pytest.raises(TypeError):
        all_losses.dist(z, z)
