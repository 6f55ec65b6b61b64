"""The divergence that all losses share: digits where it is small, finite where it is large."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.losses.divergence import HUGE, among, kl
from tests.losses.common_input import LABELLED, PAIR


def slow(p, q):
    """In the widest float that numpy has."""
    p, q = (np.exp(x.astype(np.longdouble) - np.logaddexp.reduce(x.astype(np.longdouble), -1)[:, None]) for x in (p, q))
    return np.float64((p * np.log(p / q)).sum(-1))


@jax.jit
def ours(teacher, student):
    return kl(jax.nn.log_softmax(teacher), jax.nn.log_softmax(student))


@pytest.mark.parametrize("apart", [1.0, 1e-1, 1e-2, 1e-3])
def test_float32_keeps_its_digits_where_it_is_small(rng, apart):
    """Logits that differ by `apart`, as at high temperatures; the plain sum loses the square of that."""
    teacher = rng.normal(size=(64, 100)).astype("f")
    student = teacher + apart * rng.normal(size=(64, 100)).astype("f")
    value, wanted = ours(teacher, student), slow(teacher, student)
    assert (np.asarray(value) >= 0).all()
    np.testing.assert_allclose(value, wanted, rtol=3e-7 / apart + 1e-6)
    log_p, log_q = (jax.nn.log_softmax(x) for x in (teacher, student))
    plain = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    assert apart > 1e-2 or np.abs(plain - wanted).max() > 10 * np.abs(value - wanted).max()


def test_it_is_the_sum(rng, x64):
    """Near and far, also where the student's probability is much above the teacher's."""
    teacher, student = 6 * rng.normal(size=(2, 200, 7))
    np.testing.assert_allclose(ours(teacher, student), slow(teacher, student), rtol=1e-12)
    grads = jax.jit(jax.grad(lambda z: ours(teacher, z).sum()))(student)
    p, q = (np.exp(z - np.logaddexp.reduce(z, -1)[:, None]) for z in (teacher, student))
    np.testing.assert_allclose(grads, q - p, atol=1e-12)
    twice = jax.jit(jax.grad(lambda z: jax.grad(lambda z: ours(teacher, z).sum())(z)[0, 0]))(student)[0]
    np.testing.assert_allclose(twice, q[0, 0] * (np.eye(7)[0] - q[0]), atol=1e-12)  # a search differentiates twice


def test_equal_and_impossible():
    one_hot, other = jnp.array([[HUGE, -HUGE, 0.0]]), jnp.array([[0.5, 2.0, -1.0]])
    assert float(ours(other, other)[0]) == 0.0
    for pair in ((one_hot, other), (other, one_hot), (one_hot, one_hot)):
        value, slopes = jax.value_and_grad(lambda z: ours(*z).sum())(pair)
        assert np.isfinite(value) and all(np.isfinite(s).all() for s in slopes) and value >= 0
    np.testing.assert_allclose(ours(one_hot, other), -jax.nn.log_softmax(other)[:, 0], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 10.0])
def test_infinite_logits_at_any_temperature(temperature):
    """Compiled: there a division and the difference from the maximum may be one operation."""
    teacher, labels = jnp.float32([[-3e38, jnp.inf, 0.0, 1.0, 2.0]]), jnp.array([1])
    pair = {"student": jnp.float32([[2.5, 0.5, -1.0, 0.0, 1.0]]), "teacher": teacher}
    for loss, more in ((losses.kd, {}), (losses.dkd, {"labels": labels}), (losses.dist, {})):
        for given in (pair, {"student": teacher, "teacher": pair["student"]}):
            f = lambda student, loss=loss, more=more, given=given: loss(  # noqa: E731
                student=student, teacher=given["teacher"], temperature=temperature, **more
            ).sum()
            value, slope = jax.jit(jax.value_and_grad(f))(given["student"])
            assert np.isfinite(value) and np.isfinite(slope).all(), loss
    wanted = -(temperature**2) * jax.nn.log_softmax(pair["student"] / temperature)[:, 1]
    np.testing.assert_allclose(jax.jit(partial(losses.kd, temperature=temperature))(**pair), wanted, rtol=1e-5)


def test_no_class_is_all_of_them():
    value, slope = jax.value_and_grad(lambda z: among(z, jnp.zeros((2, 3), bool)).sum())(jnp.array([[1.0, 2, 3]] * 2))
    np.testing.assert_allclose(value, -6 * np.log(3), rtol=1e-6)
    np.testing.assert_array_equal(slope, 0)


def test_the_sheets_values(x64):
    np.testing.assert_allclose(losses.kd(**PAIR), [0.47824133, 1.98054867, 2.46173444], atol=6e-9)
    parts = [losses.dkd(**LABELLED, alpha=a, beta=1 - a) for a in (1.0, 0.0)]
    wanted = [[0.15295210, 0.09017876, 0.03033417], [0.45678734, 2.38197772, 2.99494447]]
    np.testing.assert_allclose(parts, wanted, atol=6e-9)
