"""CRLD against the published function's values, and what it reduces to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, PAIR, STUDENT, TEACHER

STRONG = {
    "student_strong": STUDENT[:, ::-1] * 0.5,
    "teacher_strong": 0.6 * TEACHER + np.array([0.3, 0.0, -0.3, 0.6, 0.0]),
}
PUBLISHED = {"weak_confidence": 0.7, "strong_confidence": 0.4}
crld = jax.jit(losses.crld)


def test_values_are_the_published_codes(x64):
    np.testing.assert_allclose(crld(**PAIR, **STRONG, **PUBLISHED).mean(), 2.21239625, atol=6e-9)
    within = crld(**PAIR, **STRONG, **PUBLISHED, cross=0.0)
    np.testing.assert_allclose(within.mean(), 1.60138673, atol=6e-9)
    assert [*(within > 0)] == [False, True, False]
    cross = crld(**PAIR, **STRONG, **PUBLISHED, within=0.0)
    np.testing.assert_allclose(cross.mean(), 0.61100952, atol=6e-9)
    assert [*(cross > 0)] == [True, True, False]


def test_with_one_view_it_is_kd(x64):
    """Where the teacher need not be sure, 2 (within + cross) KD; where it cannot be, nothing."""
    one = {"student_strong": STUDENT, "teacher_strong": TEACHER}
    all_sure = {"weak_confidence": 0.0, "strong_confidence": 0.0}
    np.testing.assert_allclose(crld(**PAIR, **one, **all_sure), 5 * losses.kd(**PAIR), rtol=1e-12)
    assert not crld(**PAIR, **one, weak_confidence=1.1, strong_confidence=1.1).any()


def test_the_raw_teachers_are_the_sure_ones(x64):
    flat = {"teacher": 0 * TEACHER, "student": STUDENT}
    raw = {"raw_teacher": TEACHER, "raw_teacher_strong": STRONG["teacher_strong"]}
    assert [*(crld(**flat, **STRONG, **raw, **PUBLISHED, cross=0.0) > 0)] == [False, True, False]
    assert not crld(**flat, **STRONG, **PUBLISHED, cross=0.0).any()
    edge = float(jax.nn.softmax(jnp.asarray(TEACHER[0])).max())
    assert crld(**PAIR, **STRONG, cross=0.0, weak_confidence=edge)[0] > 0  # at least as sure


def test_extreme_logits_are_finite():
    extreme = jnp.float32(EXTREME)
    value, slope = jax.value_and_grad(
        lambda s: losses.crld(student=s, teacher=extreme, student_strong=s, teacher_strong=jnp.float32(TEACHER)).sum()
    )(jnp.float32(STUDENT))
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="kd: temperature must be a finite number above 0, got 0"):
        losses.crld(**PAIR, **STRONG, temperature=0.0)
