"""SDD: logits of regions of an image, from the classifier at every place of the last map."""

from collections.abc import Sequence

import jax.numpy as jnp

from kd_jax.losses.common import pool_to, upcast
from kd_jax.typing import Array

GRID = 4


def region_logits(cam: Array, scales: Sequence[int]) -> Array:
    """The logits of every cell of every grid: (B, H, W, K) to (R, B, K), R = sum of s^2 over the scales, in order.

    The classifier is linear, so the logits of a region's mean feature are the mean of the map `Outputs.cam` over it.
    The map is average-pooled to 4 x 4 (repeated where it is smaller) and then to each grid, as the published code does:
    where 4 divides its size, the one cell of scale 1 gives the network's own logits; on 7 x 7 windows overlap, and it
    does not.
    """
    (cam,) = upcast(cam)
    cells = pool_to(cam, (GRID, GRID))
    grids = [pool_to(cells, (s, s)).reshape(len(cam), s * s, -1) for s in scales]
    return jnp.moveaxis(jnp.concatenate(grids, axis=1), 1, 0)


def region_weights(teacher: Array, whole: Array, labels: Array, beta: float) -> Array:
    """Weights (R, B) of regions: 1 where the teacher is right about the region as about the whole image, or wrong as
    there; else beta.

    Args:
      teacher: (R, B, K) logits of regions.
      whole: (B, K) of the whole image.
      labels: (B,).
      beta: weight of the others.
    """
    right, on_whole = (jnp.argmax(z, axis=-1) == labels for z in (teacher, whole))
    return jnp.where(right == on_whole, 1.0, beta)
