"""The regressor of FitNet: one convolution gives a student's map the teacher's shape."""

from flax import linen as nn

from kd_jax.layers.basic import conv, norm, torch_default, transposed_default
from kd_jax.layers.doubling import Doubling
from kd_jax.typing import Array, InputError


class Regressor(nn.Module):
    """(B, h, w, c) to (B, *shape), learned: convolution with bias, BatchNorm, ReLU.

    The convolution depends on the sizes. Where h = 2 H it is 3x3 with stride 2. Where 2 h = H it is a transposed 4x4
    with stride 2. Otherwise, where the map is not smaller, it has the size 1 + h - H by 1 + w - W and no padding (1x1
    at equal sizes).

    shape: (H, W, C) of the result. depth: number of convolutions, each with BatchNorm and ReLU; those behind the first
    are 3x3 with stride 1; SoKD has 3. relu: whether the last ReLU is there; without it results have either sign.

    Raises:
      InputError: no rule takes one size to the other.
    """

    shape: tuple[int, int, int]
    depth: int = 1
    relu: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = norm("bn0", train)(self._first(x.shape[1:])(x))
        for i in range(1, self.depth):
            layer = conv(self.shape[-1], 3, use_bias=True, kernel_init=torch_default, name=f"conv{i}")
            x = norm(f"bn{i}", train)(layer(nn.relu(x)))
        return nn.relu(x) if self.relu else x

    def _first(self, size: tuple[int, ...]) -> nn.Module:
        """The convolution that matches the shapes. Biases start at 0: BatchNorm removes them."""
        (h, w, _), (height, width, channels) = size, self.shape
        plain = {"use_bias": True, "kernel_init": torch_default, "name": "conv0"}
        if h == 2 * height and (w + 1) // 2 == width:
            return conv(channels, 3, 2, **plain)
        if 2 * h == height and 2 * w == width:
            return Doubling(channels, **plain | {"kernel_init": transposed_default})
        if h >= height and w >= width:
            return nn.Conv(channels, (1 + h - height, 1 + w - width), padding="VALID", **plain)
        raise InputError(
            f"regressor: no convolution takes a map of {_size(size)} to {_size(self.shape)}: "
            "it must be half as high and wide, or not smaller"
        )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
