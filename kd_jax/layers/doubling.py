"""A transposed convolution that makes a map twice as high and wide, computed without the zeros between its cells."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from kd_jax.layers.convolution import convolve
from kd_jax.typing import Array

NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


class Doubling(nn.Module):
    """Transposed 4x4 convolution with stride 2: (B, h, w, c) to (B, 2 h, 2 w, width).

    Numbers and parameters are those of nn.ConvTranspose(width, (4, 4), (2, 2)). Four of the kernel's 16 cells reach any
    one result, so it is a 2x2 convolution that gives the four results around every corner of the input's cells. On a
    CPU XLA would multiply by the zeros too, and take the gradient by the kernel in a plain loop.

    kernel_init: of (4, 4, c, width).
    """

    width: int
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, h, w, channels = x.shape
        kernel = self.param("kernel", self.kernel_init, (4, 4, channels, self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        # cell 2 t + a of the kernel takes the input's cell i + a + t - 1 to the result's cell 2 i + a
        taps = kernel.reshape(2, 2, 2, 2, channels, self.width).transpose(0, 2, 4, 1, 3, 5)
        corners = convolve(
            x, taps.reshape(2, 2, channels, 4 * self.width), (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC
        )
        corners = corners.reshape(batch, h + 1, w + 1, 2, 2, self.width)
        rows = [jnp.stack([corners[:, a : a + h, b : b + w, a, b] for b in (0, 1)], axis=3) for a in (0, 1)]
        doubled = jnp.stack(rows, axis=2).reshape(batch, 2 * h, 2 * w, self.width)
        return doubled if bias is None else doubled + bias
