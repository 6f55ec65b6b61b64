"""Losses on maps to which a learned layer has given one shape: VID, OFD and ReviewKD's context loss.

Arrays in, one value an example out; always called by keyword. All are computed in float32 (or wider), and none
detaches an argument. The layers belong to the methods.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from kd_jax.losses.common import check_same_length, check_same_shape, mean_square, pool_to, upcast
from kd_jax.typing import Array

LEVELS = (4, 2, 1)  # heights that ReviewKD's context loss pools to


def vid(*, student: Array, teacher: Array, variance: Array) -> Array:
    """Negative log-likelihood of a teacher's map under a Gaussian of one variance a channel, without its constant.

        mean over H, W and C of (m - t)^2 / (2 s_c) + log(s_c) / 2

    Nothing is detached.

    Args:
      student: m, (B, H, W, C), the predicted mean.
      teacher: t, (B, H, W, C).
      variance: s, (C,), > 0.

    Returns:
      (B,), below 0 where variances below 1 fit.

    Raises:
      ValueError: maps of different shapes, variances of another width.

    Reference: Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer",
      2019, arXiv 1904.05835.
    Differs: the paper sums over the map, with the deviation's logarithm; the published code takes the mean, as here.
    """
    check_same_shape("vid", student, teacher)
    if variance.shape != student.shape[-1:]:
        raise ValueError(f"vid: variances {student.shape[-1:]} wanted, got {variance.shape}")
    student, teacher, variance = upcast(student, teacher, variance)
    return 0.5 * jnp.mean((student - teacher) ** 2 / variance + jnp.log(variance), axis=(1, 2, 3))


def ofd(*, students: Sequence[Array], teachers: Sequence[Array], margins: Sequence[Array]) -> Array:
    """Partial L2 of maps before their ReLU, summed over the map; every stage counts half as much as the next one.

        sum_i 2^-(L - i) sum over H, W and C of d(s, t, m)^2,   i = 1 .. L
        d = s - t where t > 0, else max(s - max(t, m), 0)

    Where the teacher is not positive, the loss is 0 as soon as the student is as low as the teacher or as the margin.
    The teacher's maps are average-pooled to the student's size. Nothing is detached.

    Args:
      students: L maps (B, H, W, C).
      teachers: L maps of the same widths.
      margins: L arrays (C,), <= 0.

    Returns:
      (B,)

    Raises:
      ValueError: no maps, not as many of one as of another, other widths.

    Reference: Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019,
      arXiv 1904.01866.
    Differs: where a student's map is larger than the teacher's, each cell is compared with the teacher's nearest cell;
      the published code averages the cells around it if the sizes do not divide.
    """
    check_same_length("ofd", students, teachers, margins, wanted="as many of one as of the other")
    total = 0.0
    for s, t, m in zip(students, teachers, margins, strict=True):
        if not s.shape[-1:] == t.shape[-1:] == m.shape:
            raise ValueError(f"ofd: maps and margins of one width wanted, got {s.shape}, {t.shape} and {m.shape}")
        s, t, m = upcast(s, t, m)
        t = pool_to(t, s.shape[1:3])
        distance = jnp.where(t > 0, s - t, jnp.maximum(s - jnp.maximum(t, m), 0))
        total = total / 2 + jnp.sum(distance**2, axis=(1, 2, 3))
    return total


def hcl(*, students: Sequence[Array], teachers: Sequence[Array]) -> Array:
    """Hierarchical context loss: mean squared differences of maps and of their averages over larger and larger areas.

        sum over maps of (MSE + 1/2 MSE_4 + 1/4 MSE_2 + 1/8 MSE_1) / (1 + 1/2 + 1/4 + 1/8)

    MSE_n is that of the maps average-pooled to n x n. A level n is left out of both sums where the map is not higher
    than n; the next level then takes its weight. Nothing is detached.

    Args:
      students: L maps (B, H, W, C), or vectors (B, D), which count as maps of one cell.
      teachers: L of the same shapes.

    Returns:
      (B,)

    Raises:
      ValueError: no maps, not as many of one as of the other, different shapes.

    Reference: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", 2021, arXiv 2104.09044.
    Differs: a map that is narrower than a level is not stretched to it.
    """
    check_same_length("hcl", students, teachers, wanted="as many of one as of the other")
    total = 0.0
    for s, t in zip(students, teachers, strict=True):
        check_same_shape("hcl", s, t)
        s, t = upcast(s, t)
        difference = (s - t).reshape(len(s), *(s.shape[1:3] if s.ndim == 4 else (1, 1)), -1)
        height, width = difference.shape[1:3]
        value, weight, weights = mean_square(difference), 1.0, 1.0
        for n in (n for n in LEVELS if n < height):
            weight /= 2
            weights += weight
            value += weight * mean_square(pool_to(difference, (n, min(n, width))))
        total += value / weights
    return total
