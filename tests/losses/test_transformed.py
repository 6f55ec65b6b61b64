"""TTM and WTTM against the published functions' values, what they become, and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, PAIR, STUDENT, TEACHER

ttm, power_sum = (jax.jit(f, static_argnames="gamma") for f in (losses.ttm, losses.power_sum))


@pytest.mark.parametrize(
    ("gamma", "weights", "values", "means"),
    [
        (0.1, [4.05827940, 3.87953906, 3.98028383], [0.51339870, 0.27676444, 0.77532970], (0.52183094, 2.08108869)),
        (0.25, [3.03201051, 2.76383484, 2.93006175], [0.43819893, 0.43899408, 0.94792892], (0.60837398, 1.77314039)),
        (0.8, [1.27911399, 1.19573224, 1.26274497], [0.39557827, 1.40775574, 1.56271972], (1.12201791, 1.38753503)),
    ],
)
def test_values_are_the_published_codes(x64, gamma, weights, values, means):
    ours, share = ttm(**PAIR, gamma=gamma), power_sum(teacher=TEACHER, gamma=gamma)
    np.testing.assert_allclose(ours, values, atol=6e-9)
    np.testing.assert_allclose(share, weights, atol=6e-9)
    np.testing.assert_allclose([ours.mean(), (share * ours).mean()], means, atol=6e-9)


def test_the_power_one_is_kd_at_one(x64):
    np.testing.assert_allclose(ttm(**PAIR, gamma=1.0), losses.kd(**PAIR, temperature=1.0), rtol=1e-12)
    np.testing.assert_allclose(power_sum(teacher=TEACHER, gamma=1.0), 1.0, rtol=1e-12)


def test_the_gradient_and_the_power(x64):
    slope = jax.jit(jax.grad(lambda s: losses.ttm(student=s, teacher=TEACHER, gamma=0.3).sum()))(STUDENT)
    p = jax.nn.softmax(TEACHER) ** 0.3
    np.testing.assert_allclose(slope, jax.nn.softmax(STUDENT) - p / p.sum(1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(ttm(student=0.3 * TEACHER + 5.0, teacher=TEACHER, gamma=0.3), 0, atol=1e-12)


def test_weights_at_their_ends():
    ends = jnp.array([[0.0] * 5, [1e30, 0, 0, 0, 0]])
    np.testing.assert_allclose(power_sum(teacher=ends, gamma=0.1), [5**0.9, 1.0], rtol=1e-6)


def test_extreme_logits_are_finite():
    for student, teacher in ((EXTREME, TEACHER), (STUDENT, EXTREME), (EXTREME[:1], EXTREME[1:2])):
        pair = jnp.float32(student), jnp.float32(teacher)
        value, slope = jax.value_and_grad(lambda s, t=pair[1]: ttm(student=s, teacher=t, gamma=0.1).sum())(pair[0])
        assert np.isfinite(value) and np.isfinite(slope).all()


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="ttm: gamma must be a finite number above 0, got -1"):
        losses.ttm(**PAIR, gamma=-1.0)
