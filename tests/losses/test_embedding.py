"""Embedding distillation against numpy, and where it has no direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses

embed = jax.jit(losses.embed, static_argnames="distance")


def test_golden_values():
    """By hand: the directions (3, 4) and (4, 3) have the cosine 24 / 25."""
    student, teacher = jnp.array([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]]), jnp.array([[8.0, 6.0], [0.0, 5.0], [-1.0, 0.0]])
    np.testing.assert_allclose(embed(student=student, teacher=teacher), [1 / 25, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(embed(student=student, teacher=teacher, distance="mse"), [14.5, 13, 4.5], rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (1, 1)])
def test_against_numpy(rng, x64, shape):
    student, teacher = rng.normal(size=(2, *shape))
    cosine = (student * teacher).sum(-1) / np.linalg.norm(student, axis=-1) / np.linalg.norm(teacher, axis=-1)
    np.testing.assert_allclose(embed(student=student, teacher=teacher), 1 - cosine, rtol=1e-10, atol=1e-14)
    mse = np.square(student - teacher).mean(-1)
    np.testing.assert_allclose(embed(student=student, teacher=teacher, distance="mse"), mse, rtol=1e-12)


def test_the_slope_is_that_of_the_formula(rng, x64):
    student, teacher = rng.normal(size=(2, 4, 5))
    for distance in ("cosine", "mse"):
        loss = lambda s, d=distance: losses.embed(student=s, teacher=teacher, distance=d).sum()  # noqa: E731
        slope, step = jax.jit(jax.grad(loss))(student), 1e-6
        for i in np.ndindex(student.shape):
            moved = np.zeros_like(student)
            moved[i] = step
            numeric = (loss(student + moved) - loss(student - moved)) / (2 * step)
            np.testing.assert_allclose(slope[i], numeric, rtol=1e-5, atol=1e-8)


def test_directions_that_nearly_agree_keep_their_digits():
    student, teacher = jnp.array([[1.0, 1e-4]]), jnp.array([[1.0, 0.0]])
    np.testing.assert_allclose(embed(student=student, teacher=teacher), 5e-9, rtol=1e-3)
    assert embed(student=teacher, teacher=3 * teacher) == 0


def test_zeros_have_no_direction():
    student, teacher = jnp.zeros((1, 3)), jnp.ones((1, 3))
    value, slope = jax.jit(jax.value_and_grad(lambda s: losses.embed(student=s, teacher=teacher).sum()))(student)
    assert value == pytest.approx(0.5) and not slope.any()


def test_what_is_refused():
    with pytest.raises(InputError, match="embed: distance must be cosine or mse, got 'l1'"):
        losses.embed(student=jnp.zeros((1, 2)), teacher=jnp.zeros((1, 2)), distance="l1")
    with pytest.raises(ValueError, match="embed"):
        losses.embed(student=jnp.zeros((1, 2)), teacher=jnp.zeros((1, 3)))
