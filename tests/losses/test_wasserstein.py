"""WKD-F against the published function's values and a slow one, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses

# as published, channels first
STUDENT = np.array([[[[1, 2], [0, 1]], [[0.5, 0], [1, 1.5]]]]).transpose(0, 2, 3, 1)
TEACHER = np.array([[[[2, 2], [1, 0]], [[0, 0], [2, 1]]]]).transpose(0, 2, 3, 1)
wkd_f = jax.jit(losses.wkd_f, static_argnames=("grid", "ratio"))


def slow(student, teacher, grid, ratio):
    """Loops over cells whose sides divide the map's."""
    total, side = 0.0, student.shape[1] // grid
    for i in range(grid):
        for j in range(grid):
            cell = np.s_[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
            (a, b), (c, d) = ((x[cell].mean((1, 2)), x[cell].var((1, 2), ddof=1)) for x in (student, teacher))
            total += ratio * ((a - c) ** 2).sum(-1) + ((np.sqrt(b + 1e-5) - np.sqrt(d + 1e-5)) ** 2).sum(-1)
    return total / grid**2


def test_values_are_the_published_codes(x64):
    both = wkd_f(student=STUDENT, teacher=TEACHER)
    deviations = wkd_f(student=STUDENT, teacher=TEACHER, ratio=0.0)
    np.testing.assert_allclose(deviations, 0.11715984, atol=6e-9)
    np.testing.assert_allclose(both - deviations, 0.0625, atol=6e-9)


@pytest.mark.parametrize(("grid", "ratio"), [(1, 1.0), (2, 4.0), (4, 0.5)])
def test_against_loops(rng, x64, grid, ratio):
    student, teacher = rng.normal(size=(2, 3, 8, 8, 5))
    np.testing.assert_allclose(
        wkd_f(student=student, teacher=teacher, grid=grid, ratio=ratio), slow(student, teacher, grid, ratio), rtol=1e-10
    )
    assert not wkd_f(student=student, teacher=student, grid=grid, ratio=ratio).any()


def test_float32_keeps_the_deviation_of_a_map_far_from_zero(rng):
    """A sum of squares minus a square of sums would lose it."""
    student, teacher = rng.normal(size=(2, 2, 8, 8, 3)) * np.array([1.0, 2.0]).reshape(2, 1, 1, 1, 1) + 300
    ours = wkd_f(student=jnp.float32(student), teacher=jnp.float32(teacher), ratio=0.0)
    np.testing.assert_allclose(ours, slow(student, teacher, 1, 0.0), rtol=1e-3)


def test_constant_maps_have_a_finite_gradient():
    slope = jax.jit(jax.grad(lambda s: losses.wkd_f(student=s, teacher=jnp.ones((1, 4, 4, 2))).sum()))
    slope = slope(jnp.zeros((1, 4, 4, 2)))
    assert np.isfinite(slope).all()


def test_what_is_wrong_is_named():
    with pytest.raises(
        InputError, match="wkd_f: grid 2 leaves cells of one position on maps of 2x2; accepted: a coars"
    ):
        losses.wkd_f(student=STUDENT, teacher=TEACHER, grid=2)
    with pytest.raises(ValueError, match="wkd_f"):
        losses.wkd_f(student=STUDENT, teacher=TEACHER[..., :1])
