"""RLD against the published function's values, its special cases, and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, LABELLED, LABELS, STUDENT, TEACHER

rld = jax.jit(losses.rld, static_argnames=("alpha", "beta", "temperature", "confidence_temperature"))


@pytest.mark.parametrize(
    ("how", "scd", "mcd"),
    [
        ((4.0, 4.0), [0.15295210, 0.31356288, 0.79265287], [0.45678734, 0.54864287, 0]),
        ((4.0, 1.0), [0.29964098, 0.25993686, 0.87016833], [0.45678734, 0.54864287, 0]),
        ((1.0, 1.0), [0.29964098, 0.25993686, 0.87016833], [0.36628086, 0.39285880, 0]),
    ],
)
def test_values_are_the_published_codes(x64, how, scd, mcd):
    temperatures = dict(zip(("temperature", "confidence_temperature"), how, strict=True))
    for weights, wanted in (({"alpha": 1.0, "beta": 0.0}, scd), ({"alpha": 0.0, "beta": 1.0}, mcd)):
        np.testing.assert_allclose(rld(**LABELLED, **weights, **temperatures), wanted, atol=6e-9)


def test_its_gradient_is_the_published_codes(x64):
    def mean(student):
        how = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "confidence_temperature": 4.0}
        return losses.rld(student=student, teacher=TEACHER, labels=LABELS, **how).mean()

    value, slope = jax.jit(jax.value_and_grad(mean))(STUDENT)
    np.testing.assert_allclose(value, 3.10086985, atol=6e-9)
    wanted = [
        [-0.07953186, -0.77949199, 0.56495477, 0.72224473, -0.42817565],
        [-0.96390428, -0.11841683, 0.02412806, 1.25984291, -0.20164987],
        [0.06223981, 0.03775035, 0.02594541, -0.16871233, 0.04277675],
    ]
    np.testing.assert_allclose(slope, wanted, atol=6e-9)


def test_a_teacher_that_is_right_makes_it_dkd(x64, rng):
    student, teacher = rng.normal(size=(2, 9, 6))
    given = {"student": student, "teacher": teacher, "labels": teacher.argmax(1)}
    how = {"alpha": 0.7, "beta": 3.0, "temperature": 2.5}
    np.testing.assert_allclose(rld(**given, **how, confidence_temperature=2.5), losses.dkd(**given, **how), rtol=1e-12)


def test_classes_at_or_above_the_label_are_not_compared(x64):
    teacher = TEACHER.copy()
    teacher[1, 2], teacher[2, 0] = 9.0, 0.25  # one above rises, one below becomes a tie
    before, after = (rld(student=STUDENT, teacher=t, labels=LABELS, alpha=0.0, beta=1.0) for t in (TEACHER, teacher))
    np.testing.assert_allclose(before[1], after[1], rtol=1e-12)
    np.testing.assert_allclose(after[2], 0, atol=1e-15)
    lowest = rld(student=STUDENT, teacher=TEACHER, labels=np.array([2, 3, 4]), beta=8.0, confidence_temperature=4.0)
    np.testing.assert_allclose(lowest.mean(), 0.47995244, atol=6e-9)


def test_the_raw_teacher_says_which_classes(x64):
    """A refined teacher cannot make the set smaller."""
    refined = TEACHER[:, ::-1]
    given = {"student": STUDENT, "teacher": refined, "raw_teacher": TEACHER, "labels": LABELS, "alpha": 0.0}
    ours = rld(**given, beta=1.0, temperature=1.0)
    p, q = (np.exp(z[0, 1:]) / np.exp(z[0, 1:]).sum() for z in (refined, STUDENT))
    np.testing.assert_allclose(ours[0], (p * np.log(p / q)).sum(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 5), (3, 2)])
def test_degenerate_inputs_are_finite(shape):
    student, teacher = jnp.zeros(shape), jnp.tile(jnp.arange(float(shape[1])), (shape[0], 1))
    labels = jnp.zeros(shape[0], int)  # the lowest
    value, slope = jax.value_and_grad(lambda s: rld(student=s, teacher=teacher, labels=labels).sum())(student)
    assert np.isfinite(value) and np.isfinite(slope).all()
    no_mcd = rld(student=student, teacher=teacher, labels=labels, beta=0.0)
    np.testing.assert_array_equal(rld(student=student, teacher=teacher, labels=labels), no_mcd)


def test_extreme_logits_are_finite():
    for pair in ((EXTREME, TEACHER), (STUDENT, EXTREME), (EXTREME, EXTREME[::-1])):
        student, teacher = (jnp.float32(x) for x in pair)
        value, slope = jax.value_and_grad(lambda s, t=teacher: rld(student=s, teacher=t, labels=LABELS).sum())(student)
        assert np.isfinite(value) and np.isfinite(slope).all()


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="rld: confidence_temperature must be a finite number above 0, got 0"):
        losses.rld(**LABELLED, confidence_temperature=0.0)
