"""EA-KD's weights against the published functions' values, and their ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, PAIR, STUDENT, TEACHER

weight = jax.jit(losses.entropy_weight, static_argnames=("temperature", "bound"))


def test_values_are_the_published_codes(x64):
    """But for the 1e-10 that it adds to probabilities."""
    np.testing.assert_allclose(weight(**PAIR), [1.51412287, 1.47504469, 1.47593340], atol=6e-9)
    np.testing.assert_allclose(weight(**PAIR, bound="classes"), [1.01177045, 0.97861471, 0.98796235], atol=6e-9)
    np.testing.assert_allclose(weight(**PAIR, temperature=2.0), [1.40483736, 1.31746250, 1.33939981], atol=6e-9)


def test_its_ends(x64):
    uniform = np.zeros((2, 7))
    np.testing.assert_allclose(weight(student=uniform, teacher=uniform + 3), np.log(7), rtol=1e-12)
    sure = np.array([[1e4, 0.0, 0.0], [-1e4, 0.0, -1e4]])
    np.testing.assert_allclose(weight(student=STUDENT[:2, :3], teacher=sure), 0, atol=1e-12)


def test_extreme_logits_are_finite():
    for pair in ((EXTREME, TEACHER), (STUDENT, EXTREME)):
        student, teacher = (jnp.float32(x) for x in pair)
        value, slopes = jax.value_and_grad(
            lambda s, t: losses.entropy_weight(student=s, teacher=t).sum(), argnums=(0, 1)
        )(student, teacher)
        assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in slopes)


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="entropy_weight: temperature must be a finite number above 0, got 0"):
        losses.entropy_weight(**PAIR, temperature=0.0)
    with pytest.raises(InputError, match="entropy_weight: bound must be log or classes, got 'K'"):
        losses.entropy_weight(**PAIR, bound="K")
