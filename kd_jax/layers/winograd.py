"""A 3 x 3 convolution of stride 1 with 16 products for 2 x 2 results where 36 are written down: F(2 x 2, 3 x 3).

Reference: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016 (arXiv 1509.09308), section 4.1.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from kd_jax.typing import Array


def suits_winograd(x: Array, kernel: Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]]) -> bool:
    """Whether winograd_convolve computes this convolution, and is worth it.

    For 64 images it took 0.7 to 0.9 of XLA's time on two cores with AVX-512, with 64 channels more than that; for one
    image it can take longer. The size of the batch does not count: an image has the same program in every batch.
    """
    height, width = x.shape[1:3]
    pads = lax.padtype_to_pads((height, width), (3, 3), (1, 1), padding) if isinstance(padding, str) else padding
    same = kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and [tuple(p) for p in pads] == [(1, 1), (1, 1)]
    wide = min(kernel.shape[2:]) >= 128 and height * width >= 16
    return same and wide and height % 2 == width % 2 == 0 and x.dtype == kernel.dtype == jnp.float32


def winograd_convolve(x: Array, kernel: Array) -> Array:
    """A convolution with one row and column of zeros around, to rounding (float32: 1e-6 of the largest result).

    Args:
      x: (B, H, W, C), H and W even. kernel: (3, 3, C, D).

    Returns:
      (B, H, W, D).
    """
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    tiles = [cells for rows in _read(x, 1) for cells in _read(rows, 2)]
    kernels = [cells for row in _spread(kernel) for cells in _spread(row)]
    # one product of matrices each: all sixteen as one batched product are slower on a CPU
    products = [t.reshape(-1, channels) @ k for t, k in zip(tiles, kernels, strict=True)]
    columns = zip(*(_join(products[i : i + 4]) for i in range(0, 16, 4)), strict=True)
    y = jnp.stack([jnp.stack(_join(column), axis=1) for column in columns], axis=2)
    y = y.reshape(batch, height // 2, width // 2, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, height, width, -1)


def _read(x: Array, axis: int) -> tuple[Array, Array, Array, Array]:
    """B^T d: of every second place four neighbours."""
    end = x.shape[axis] - 3
    a, b, c, d = (lax.slice_in_dim(x, k, k + end, stride=2, axis=axis) for k in range(4))
    return a - c, b + c, c - b, b - d


def _spread(kernel: Array) -> tuple[Array, Array, Array, Array]:
    """G g, of the first axis."""
    a, b, c = kernel
    return a, (a + b + c) / 2, (a - b + c) / 2, c


def _join(m: Sequence[Array]) -> tuple[Array, Array]:
    """A^T m: two results of four products."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
