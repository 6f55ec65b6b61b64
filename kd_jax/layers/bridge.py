"""The bridge of FCFD: one convolution takes a network's map to where another network's later layers can read it."""

from flax import linen as nn

from kd_jax.layers.basic import conv, norm, torch_default, transposed_default
from kd_jax.layers.doubling import Doubling
from kd_jax.typing import Array, InputError


class Bridge(nn.Module):
    """(B, h, w, c) to (B, *shape), learned: convolution, BatchNorm and perhaps LeakyReLU of slope 0.1.

    At equal sizes the convolution is 3x3 without bias. Where h is twice H it is 3x3 with stride 2, where H is twice h a
    transposed 4x4 with stride 2, both with bias.

    shape: (H, W, C) of the result. leaky: whether the LeakyReLU is there: for readers of what comes out of a ReLU.

    Raises:
      InputError: no rule takes one size to the other.
    """

    shape: tuple[int, int, int]
    leaky: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = norm("bn", train)(self._convolution(*x.shape[1:3])(x))
        return nn.leaky_relu(x, 0.1) if self.leaky else x

    def _convolution(self, h: int, w: int) -> nn.Module:
        """Biases start at 0: BatchNorm removes them."""
        height, width, channels = self.shape
        if (h, w) == (height, width):
            return conv(channels, 3, kernel_init=torch_default, name="conv")
        if ((h + 1) // 2, (w + 1) // 2) == (height, width):
            return conv(channels, 3, 2, use_bias=True, kernel_init=torch_default, name="conv")
        if (2 * h, 2 * w) == (height, width):
            return Doubling(channels, use_bias=True, kernel_init=transposed_default, name="conv")
        raise InputError(
            f"bridge: no convolution takes a map of {h}x{w} to {height}x{width}: sizes must be equal, or one twice the "
            "other"
        )
