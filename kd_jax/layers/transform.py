"""A layer that gives a map of one network the shape that a part of another network expects: a map, or tokens."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers.basic import conv, kaiming, norm
from kd_jax.layers.doubling import Doubling
from kd_jax.typing import Array

FORMS = ("conv3x3", "conv1x1")


class Transform(nn.Module):
    """(B, h, w, c) to (B, H, W, C), learned, not negative; or to tokens (B, T + H W, C), of either sign.

    form "conv3x3": 3x3 convolution, BatchNorm, ReLU, then 1x1 convolution to the width C, BatchNorm, ReLU.
    The 3x3 keeps the width c. Where h >= 2 H it has stride 2, and it is repeated as long as that holds. Where 2 h <= H
    it is a transposed 4x4 with stride 2 to the width C, since small maps are wide; repeated likewise.
    form "conv1x1": the second part alone, behind an average or a repetition to the size (H, W).
    Where the sizes are not a power of two apart, bilinear interpolation does the rest.

    shape: (H, W, C) of the result. tokens: T, how many tokens a transformer has before its patches; 0 for a map. For
    tokens the last ReLU is left out, since a transformer's stages have either sign. Cells become tokens row by row,
    behind T tokens of zeros. Learned positions are added to all; at the class token they are the class token. They
    start as a transformer's positions do.
    """

    shape: tuple[int, int, int]
    form: str = "conv3x3"
    tokens: int = 0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        width = x.shape[-1]
        if self.form == "conv3x3":
            for i, stride in enumerate(_strides(x.shape[1], self.shape[0])):
                up = Doubling(self.shape[-1], kernel_init=kaiming, name=f"up{i}")
                x = up(x) if stride < 1 else conv(width, 3, stride, name=f"conv{i}")(x)
                x = nn.relu(norm(f"bn{i}", train)(x))
        x = conv(self.shape[-1], 1, name="conv")(_resized(x, self.shape[:2]))
        x = norm("bn", train)(x)
        return self._tokens(x) if self.tokens else nn.relu(x)

    def _tokens(self, x: Array) -> Array:
        x = jnp.pad(x.reshape(x.shape[0], -1, x.shape[-1]), ((0, 0), (self.tokens, 0), (0, 0)))
        # not smaller: a LayerNorm divides by the deviation of the class token
        return x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))


def _strides(have: int, want: int) -> list[float]:
    """The strides of the convolutions that take a map from one height to (nearly) another; 0.5 doubles it."""
    strides = []
    while have != want and (have + 1) // 2 >= want:
        strides.append(2)
        have = (have + 1) // 2
    while 2 * have <= want:
        strides.append(0.5)
        have *= 2
    return strides or [1]


def _resized(x: Array, size: tuple[int, int]) -> Array:
    """The map in another height and width: averaged or repeated where one divides the other, else bilinear."""
    h, w = x.shape[1:3]
    if h % size[0] == 0 and w % size[1] == 0:
        window = (h // size[0], w // size[1])
        return x if window == (1, 1) else nn.avg_pool(x, window, window)
    if size[0] % h == 0 and size[1] % w == 0:
        return jnp.repeat(jnp.repeat(x, size[0] // h, axis=1), size[1] // w, axis=2)
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear")
