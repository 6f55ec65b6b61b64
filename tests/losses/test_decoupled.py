"""The two parts of KD against the published functions' values, and the classes that count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, LABELLED, LABELS, PAIR, STUDENT, TEACHER

decoupled = jax.jit(losses.decoupled)


def test_parts_are_dkds(x64):
    target, rest = decoupled(**LABELLED)
    np.testing.assert_allclose(target, [0.15295210, 0.09017876, 0.03033417], atol=6e-9)
    np.testing.assert_allclose(rest, [0.45678734, 2.38197772, 2.99494447], atol=6e-9)
    share = losses.left_for_others(teacher=TEACHER, labels=LABELS, temperature=4.0)
    np.testing.assert_allclose(target + share * rest, losses.kd(**PAIR), rtol=1e-12)


@pytest.mark.parametrize(("count", "wanted"), [
    (2, [0, 0, 0.12355017]),
    (3, [0.48795130, 1.26896702, 0.12355017]),
    (4, [0.41586135, 1.64459429, 2.62600786]),
    (5, [0.45678734, 2.38197772, 2.99494447]),
])  # fmt: skip
def test_the_first_classes_are_the_published_codes(x64, count, wanted):
    np.testing.assert_allclose(decoupled(**LABELLED, count=jnp.int32(count))[1], wanted, atol=6e-9)


def test_the_label_alone_is_nothing(x64):
    """Also in its gradient; the published code takes a divergence over all classes there."""
    right = {**LABELLED, "labels": np.argmax(TEACHER, -1)}
    slope = jax.grad(lambda s: losses.decoupled(**{**right, "student": s}, count=1)[1].sum())(STUDENT)
    assert not decoupled(**right, count=1)[1].any() and not slope.any()


def test_the_raw_teacher_orders_the_classes(x64):
    flat = {**LABELLED, "teacher": 0 * TEACHER}
    ours = decoupled(**flat, count=3, raw_teacher=TEACHER)[1]
    pair = [z[0][[1, 3]] / 4 for z in (0 * TEACHER, STUDENT)]  # of row 0 the first three are 0, 3, 1; 0 is the label
    p, q = (np.exp(z) / np.exp(z).sum() for z in pair)
    np.testing.assert_allclose(ours[0], 16 * (p * np.log(p / q)).sum(), rtol=1e-10)


def test_extreme_logits_are_finite():
    for pair in ((EXTREME, TEACHER), (STUDENT, EXTREME)):
        student, teacher = (jnp.float32(x) for x in pair)
        slope = jax.grad(
            lambda s, t=teacher: sum(losses.decoupled(student=s, teacher=t, labels=LABELS, count=3)).sum()
        )(student)
        assert np.isfinite(slope).all()


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="decoupled: temperature must be a finite number above 0, got 0"):
        losses.decoupled(**LABELLED, temperature=0.0)
