"""The alpha-beta divergence against the published function's values, limits, dualities, and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, PAIR, STUDENT, TEACHER

alpha_beta = jax.jit(losses.alpha_beta, static_argnames=("alpha", "beta", "temperature"))
SHEET = {  # (alpha, beta) -> means at T = 4 and 1; where a limit is taken, the limit
    (1, 0): (0.10251093, 1.31135545), (0, 1): (0.10073821, 1.33552324), (0.8, 0.3): (0.08640884, 1.03264840),
    (0, 0): (0.51405959, 8.76263092), (0.5, 0): (0.22707187, 2.95652268), (0.5, 0.5): (0.10071637, 1.18459639),
    (1, 1): (0.02073470, 0.28291291), (0.9, 0.3): (0.07383312, 0.89404910), (0.5, -0.5): (0.51825657, 8.84500736),
    (0, 0.5): (0.22615796, 3.12711621),
}  # fmt: skip


@pytest.mark.parametrize("powers", SHEET)
def test_values_are_the_sheets(x64, powers):
    how = dict(zip(("alpha", "beta"), powers, strict=True))
    ours = [alpha_beta(**PAIR, **how, temperature=t).mean() for t in (4.0, 1.0)]
    np.testing.assert_allclose(ours, SHEET[powers], atol=6e-9)


def test_its_gradient_is_the_published_codes(x64):
    def mean(student):
        return losses.alpha_beta(student=student, teacher=TEACHER, alpha=0.8, beta=0.3, temperature=1.0).mean()

    wanted = [
        [-0.10121042, -0.01971866, 0.01662763, 0.10989387, -0.00559241],
        [0.00282096, 0.06175342, -0.13418237, 0.04886410, 0.02074390],
        [0.14657946, -0.10563223, -0.04961170, -0.01651173, 0.02517621],
    ]
    np.testing.assert_allclose(jax.jit(jax.grad(mean))(STUDENT), wanted, atol=6e-9)


def test_one_and_zero_are_kd(x64):
    np.testing.assert_allclose(16 * alpha_beta(**PAIR, alpha=1.0, beta=0.0), losses.kd(**PAIR), rtol=1e-12)


@pytest.mark.parametrize("powers", [(0.8, 0.3), (0.5, 0.0), (0.0, 0.0), (1.0, 1.0)])
def test_exchanged_networks_exchange_the_powers(x64, powers):
    a, b = powers
    one = alpha_beta(**PAIR, alpha=a, beta=b)
    two = alpha_beta(student=TEACHER, teacher=STUDENT, alpha=b, beta=a)
    np.testing.assert_allclose(one, two, rtol=1e-10)
    np.testing.assert_allclose(alpha_beta(student=TEACHER + 1, teacher=TEACHER, alpha=a, beta=b), 0, atol=1e-12)


@pytest.mark.parametrize("limit", [(0.6, 0.0), (0.0, 0.6), (0.5, -0.5)])
def test_limits_are_limits(x64, limit):
    a, b = limit
    near = alpha_beta(**PAIR, alpha=a + 1e-6, beta=b + 1e-6, temperature=1.0)
    np.testing.assert_allclose(near, alpha_beta(**PAIR, alpha=a, beta=b, temperature=1.0), rtol=1e-4)


@pytest.mark.parametrize("tiny", [1e-2, 1e-4, 1e-6, 1e-9, 1e-20])
def test_float32_keeps_its_digits_near_limits(tiny):
    """(1, 1e-6) lost all but one of them. The limit itself is as far from the value as the powers are from it."""
    for limit in ((1.0, 0.0), (0.0, 1.0), (0.5, -0.5), (0.0, 0.0)):
        a, b = (x + y * tiny for x, y in zip(limit, (0.6, 1.0), strict=True))
        near = alpha_beta(student=jnp.float32(STUDENT), teacher=jnp.float32(TEACHER), alpha=a, beta=b, temperature=1.0)
        at = alpha_beta(**PAIR, alpha=limit[0], beta=limit[1], temperature=1.0)
        np.testing.assert_allclose(near, at, rtol=20 * tiny + 2e-3 * (tiny == 1e-4) + 1e-5)


def by_formula(student, teacher, a, b):
    z = [np.clip(np.float64(x), -1e30, 1e30) / 4 for x in (teacher, student)]
    p, q = (
        np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True) for x in z
    )
    return -(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum(-1) / (a * b)


@pytest.mark.parametrize("powers", [(0.8, 0.3), (0.5, 0.5), (1.0, 1.0), (0.3, 0.8)])
def test_extreme_logits_have_their_values(powers):
    for student, teacher in ((EXTREME, TEACHER), (STUDENT, EXTREME), (EXTREME[:1], EXTREME[1:2])):
        ours = alpha_beta(student=jnp.float32(student), teacher=jnp.float32(teacher), alpha=powers[0], beta=powers[1])
        np.testing.assert_allclose(ours, by_formula(student, teacher, *powers), rtol=1e-5)


def test_extreme_logits_are_finite():
    for pair in ((EXTREME, TEACHER), (STUDENT, EXTREME), (EXTREME[:1], EXTREME[1:2])):
        student, teacher = (jnp.float32(x) for x in pair)
        for a, b in ((0.8, 0.3), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (0.0, 0.5), (1.0, 1e-6), (1.0, 1.0)):
            how = {"teacher": teacher, "alpha": a, "beta": b}
            value, slope = jax.value_and_grad(lambda s, how=how: alpha_beta(student=s, **how).sum())(student)
            assert np.isfinite(value) and np.isfinite(slope).all()


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="ab_kd: temperature must be a finite number above 0, got 0"):
        losses.alpha_beta(**PAIR, alpha=1.0, beta=0.0, temperature=0.0)
