"""Depthwise convolution and max pooling cell by cell of their windows, which is quick on a CPU.

XLA's own depthwise convolution is made for few wide groups there, and its gradient of a maximum is a plain loop;
`python benchmarks/run.py step --pair=vgg8,MobileNetV2` times a step with either. The functions are the same, and on
other devices they are XLA's.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from kd_jax.typing import Array

Pads = Sequence[tuple[int, int]]


def depthwise_convolve(plain: Callable, x: Array, kernel: Array, strides: Sequence[int], padding: str | Pads) -> Array:
    """A convolution of each channel alone, for gradients taken backwards.

    Args:
      plain: (x, kernel) -> the same by XLA.
      x: (B, H, W, C). kernel: (h, w, 1, C).
      strides, padding: two strides; pairs of zeros before and after, "SAME" or "VALID".

    Returns:
      (B, H', W', C).
    """
    size = kernel.shape[:2]
    pads = lax.padtype_to_pads(x.shape[1:3], size, strides, padding) if isinstance(padding, str) else padding

    def by_cells(x: Array, kernel: Array) -> Array:
        moved = _moved(_wide(x), size, strides, pads)
        return sum(cells * kernel[i, j, 0] for i, j, cells in moved).astype(x.dtype)

    def backward_by_cells(x: Array, kernel: Array, upstream: Array) -> tuple[Array, Array]:
        (by_input,) = jax.linear_transpose(lambda x: by_cells(x, kernel), x)(upstream)
        return by_input, _kernel_gradient(x, upstream, size, strides, pads).astype(kernel.dtype)

    def backward(saved: tuple[Array, Array], upstream: Array) -> tuple[Array, Array]:
        def plain_backward(x: Array, kernel: Array, upstream: Array) -> tuple[Array, Array]:
            return jax.vjp(plain, x, kernel)[1](upstream)

        return lax.platform_dependent(*saved, upstream, cpu=backward_by_cells, default=plain_backward)

    def forward(x: Array, kernel: Array) -> Array:
        return lax.platform_dependent(x, kernel, cpu=by_cells, default=plain)

    quick = jax.custom_vjp(forward)
    quick.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), backward)
    return quick(x, kernel)


def max_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    """The largest of every size x size cells, (B, H, W, C) to (B, H', W', C), for gradients taken backwards.

    Of equal cells the first one takes the gradient, as in XLA and PyTorch.
    """
    window, strides, pads = (size, size), (stride, stride), ((padding, padding),) * 2

    def forward(x: Array) -> Array:
        return nn.max_pool(x, window, strides, pads)

    def by_cells(x: Array, y: Array, upstream: Array) -> Array:
        taken, total, (height, width) = jnp.zeros(y.shape, bool), jnp.zeros((), x.dtype), x.shape[1:3]
        for i, j, cells in _moved(x, window, strides, pads, empty=-jnp.inf):
            first = (cells == y) & ~taken
            taken |= first
            back = [(k, n + 2 * padding - k - stride * (m - 1) - 1, stride - 1)
                    for k, n, m in ((i, height, y.shape[1]), (j, width, y.shape[2]))]  # fmt: skip
            total += lax.pad(jnp.where(first, upstream, 0), jnp.zeros((), x.dtype), ((0, 0, 0), *back, (0, 0, 0)))
        return total[:, padding : padding + height, padding : padding + width]

    def backward(saved: tuple[Array, Array], upstream: Array) -> tuple[Array]:
        def plain_backward(x: Array, y: Array, upstream: Array) -> Array:
            return jax.vjp(forward, x)[1](upstream)[0]

        return (lax.platform_dependent(*saved, upstream, cpu=by_cells, default=plain_backward),)

    quick = jax.custom_vjp(forward)
    quick.defvjp(lambda x: ((y := forward(x)), (x, y)), backward)
    return quick(x)


def _moved(
    x: Array, size: Sequence[int], strides: Sequence[int], pads: Pads, empty: float = 0.0
) -> Iterator[tuple[int, int, Array]]:
    """For every cell (i, j) of a window what it reads at each place: (B, H', W', C)."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=empty)
    ends = [n - (n - k) % s - k + 1 for n, k, s in zip(x.shape[1:3], size, strides, strict=True)]
    for i, j in np.ndindex(*size):
        corner, end = (0, i, j, 0), (x.shape[0], i + ends[0], j + ends[1], x.shape[3])
        yield i, j, lax.slice(x, corner, end, (1, *strides, 1))


def _kernel_gradient(x: Array, upstream: Array, size: Sequence[int], strides: Sequence[int], pads: Pads) -> Array:
    """(h, w, 1, C): row by row of the result, so that a row's numbers stay in the CPU's cache."""
    x, upstream = jnp.pad(_wide(x), ((0, 0), *pads, (0, 0))), _wide(upstream)

    def add_row(row: Array, totals: list[Array]) -> list[Array]:
        read = lax.dynamic_slice_in_dim(x, row * strides[0], size[0], axis=1)
        moved = _moved(read, size, strides, ((0, 0), (0, 0)))
        above = lax.dynamic_slice_in_dim(upstream, row, 1, axis=1)
        return [total + cells * above for total, (_, _, cells) in zip(totals, moved, strict=True)]

    rows = [jnp.zeros_like(upstream[:, :1])] * (size[0] * size[1])
    totals = lax.fori_loop(0, upstream.shape[1], add_row, rows)
    return jnp.stack([jnp.sum(total, axis=(0, 1, 2)) for total in totals]).reshape(*size, 1, -1)


def _wide(x: Array) -> Array:
    """At least float32, for sums."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
