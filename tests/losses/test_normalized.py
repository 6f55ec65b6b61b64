"""NKD against the published function's values, what its gradient is, and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, LABELLED, LABELS, STUDENT, TEACHER

nkd = jax.jit(losses.nkd, static_argnames=("gamma", "temperature", "divergence"))


def test_values_are_the_published_codes(x64):
    np.testing.assert_allclose(nkd(**LABELLED), [3.13097035, 3.34897512, 4.40633836], atol=6e-9)
    wanted = [45.06107097, 47.19859708, 50.36156307]
    np.testing.assert_allclose(nkd(**LABELLED, gamma=3.5, temperature=3.0), wanted, atol=6e-9)
    np.testing.assert_allclose(nkd(**LABELLED, gamma=0.0), [0.87470073, 0.08958051, 0.26664030], atol=6e-9)


def test_its_gradient_is_the_published_codes(x64):
    def mean(student, **how):
        return losses.nkd(student=student, teacher=TEACHER, labels=LABELS, **how).mean()

    wanted = [
        [-0.15060574, -0.11301254, 0.04877428, 0.24894264, -0.03409864],
        [0.07608774, -0.02014814, -0.38454938, 0.19921043, 0.12939936],
        [0.35695533, -0.24136059, -0.16616178, -0.02908046, 0.07964750],
    ]
    for divergence in (False, True):
        slope = jax.jit(jax.grad(lambda s, d=divergence: mean(s, divergence=d)))(STUDENT)
        np.testing.assert_allclose(slope, wanted, atol=6e-9)


def test_the_other_classes_are_dkds(x64):
    ours = nkd(**LABELLED, gamma=2.0, temperature=4.0, divergence=True) - nkd(**LABELLED, gamma=0.0)
    np.testing.assert_allclose(ours, losses.dkd(**LABELLED, alpha=0.0, beta=2.0), rtol=1e-12)


def test_the_raw_teacher_says_how_likely_the_label_is(x64):
    refined = {**LABELLED, "teacher": 0 * TEACHER, "raw_teacher": TEACHER}
    np.testing.assert_allclose(nkd(**refined, gamma=0.0), nkd(**LABELLED, gamma=0.0), rtol=1e-12)
    assert not np.allclose(nkd(**refined), nkd(**LABELLED))


def test_two_classes_have_no_others(x64):
    two = {"student": STUDENT[:, :2], "teacher": TEACHER[:, :2], "labels": LABELS % 2}
    np.testing.assert_allclose(nkd(**two), nkd(**two, gamma=0.0), rtol=1e-12)


def test_extreme_logits_are_finite():
    for pair in ((EXTREME, TEACHER), (STUDENT, EXTREME), (EXTREME[:1], EXTREME[1:2])):
        student, teacher = (jnp.float32(x) for x in pair)
        labels = LABELS[: len(student)]
        value, slope = jax.value_and_grad(lambda s, t=teacher, y=labels: nkd(student=s, teacher=t, labels=y).sum())(
            student
        )
        assert np.isfinite(value) and np.isfinite(slope).all()


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="nkd: temperature must be a finite number above 0, got 0"):
        losses.nkd(**LABELLED, temperature=0.0)
