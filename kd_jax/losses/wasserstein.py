"""WKD-F: the Wasserstein distance of two maps, each cell of a grid a Gaussian."""

import jax.numpy as jnp

from kd_jax.losses.common import check_same_shape, upcast, windows
from kd_jax.typing import Array, InputError


def wkd_f(*, student: Array, teacher: Array, grid: int = 1, ratio: float = 1.0) -> Array:
    """Squared Wasserstein-2 distance of diagonal Gaussians, averaged over the cells of a grid.

        mean over cells of sum_c ratio (m_S - m_T)^2 + (s_S - s_T)^2

    m is the mean of a channel over the positions of a cell, s = sqrt(variance + 1e-5), unbiased. For ratio 1 and grid 1
    it is the distance itself. Nothing is detached.

    Args:
      student: (B, H, W, C).
      teacher: (B, H, W, C).
      grid: g >= 1, cells a side; a cell has at least two positions. Where g does not divide a side, cells overlap.
      ratio: weight of the means.

    Returns:
      (B,), at least 0 for ratio >= 0.

    Raises:
      InputError: a grid whose cells have one position.
      ValueError: maps of different shapes.

    Reference: Lv, Yang, Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", 2024,
      arXiv 2412.08139.
    """
    check_same_shape("wkd_f", student, teacher)
    sides = student.shape[1:3]
    cells = [windows(side, grid) for side in sides]
    if min(rows.sum() for rows in cells[0]) * min(columns.sum() for columns in cells[1]) < 2 or grid > min(sides):
        size = "x".join(map(str, sides))
        raise InputError(f"wkd_f: grid {grid} leaves cells of one position on maps of {size}; accepted: a coarser one")
    (mean_s, std_s), (mean_t, std_t) = (_gaussians(x, *cells) for x in upcast(student, teacher))
    distance = ratio * jnp.sum((mean_s - mean_t) ** 2, axis=-1) + jnp.sum((std_s - std_t) ** 2, axis=-1)
    return jnp.mean(distance, axis=(1, 2))


def _gaussians(x: Array, rows, columns) -> tuple[Array, Array]:
    """Mean and deviation of every cell and channel, (B, g, g, C) each."""
    rows, columns = (jnp.asarray(of, x.dtype) for of in (rows, columns))

    def total(values: Array) -> Array:
        return jnp.einsum("bhwc,ih,jw->bijc", values, rows, columns, precision="highest")

    count = (rows.sum(1)[:, None] * columns.sum(1))[..., None]
    whole = jnp.mean(x, axis=(1, 2), keepdims=True)  # taken out first: squares of what is left keep their digits
    mean = total(x - whole) / count
    variance = (total((x - whole) ** 2) - count * mean**2) / (count - 1)
    return mean + whole, jnp.sqrt(jnp.maximum(variance, 0.0) + 1e-5)
