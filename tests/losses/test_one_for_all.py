"""OFA against the published function's values, and what it reduces to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, LABELLED, LABELS, PAIR, STUDENT, TEACHER

ofa = jax.jit(losses.ofa, static_argnames=("power", "all_classes"))


def test_values_are_the_published_codes(x64):
    np.testing.assert_allclose(ofa(**LABELLED), [1.61091546, 2.53361066, 2.82356163], atol=6e-9)
    code = {"all_classes": True}
    np.testing.assert_allclose(ofa(**LABELLED, power=1.5, **code), [1.72617112, 2.15623123, 2.05106873], atol=6e-9)
    np.testing.assert_allclose(ofa(**LABELLED, power=2.0, **code), [2.34076399, 1.94184886, 1.63748847], atol=6e-9)
    np.testing.assert_allclose(ofa(**LABELLED, power=1.5), [2.22336827, 2.58189699, 2.96598313], atol=6e-9)


def test_with_power_1_it_is_a_cross_entropy(x64):
    """KL and the teacher's entropy."""
    p = np.exp(TEACHER) / np.exp(TEACHER).sum(-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(ofa(**LABELLED), losses.kd(**PAIR, temperature=1.0) + entropy, rtol=1e-12)
    slopes = [jax.grad(lambda s, of=of: of(s).sum())(STUDENT) for of in (
        lambda s: losses.ofa(student=s, teacher=TEACHER, labels=LABELS),
        lambda s: losses.kd(student=s, teacher=TEACHER, temperature=1.0),
    )]  # fmt: skip
    np.testing.assert_allclose(*slopes, atol=1e-12)


def test_a_sure_teacher_that_is_right(x64):
    sure = 1e4 * np.eye(5)[LABELS]
    ce = losses.cross_entropy(student=STUDENT, labels=LABELS)
    np.testing.assert_allclose(
        ofa(student=STUDENT, teacher=sure, labels=LABELS, power=1.5), (2**1.5 - 1) * ce, rtol=1e-9
    )


def test_extreme_logits_are_finite():
    for pair in ((EXTREME, TEACHER), (STUDENT, EXTREME)):
        student, teacher = (jnp.float32(x) for x in pair)
        slope = jax.grad(lambda s, t=teacher: losses.ofa(student=s, teacher=t, labels=LABELS, power=1.5).sum())(student)
        assert np.isfinite(slope).all()


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="ofa: power must be a finite number above 0, got 0"):
        losses.ofa(**LABELLED, power=0.0)
