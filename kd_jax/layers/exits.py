"""Exits: logits of an early stage of a network, by layers of their own."""

import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers.basic import conv, depthwise, norm, pool
from kd_jax.typing import Array, InputError

_normal = nn.initializers.truncated_normal(0.02)


class MapExit(nn.Module):
    """Logits (B, K) of a map (B, H, W, C).

    `halvings` blocks each make the map half as high and wide and twice as deep, the last one as deep as `width`: a 3x3
    convolution of each channel alone with stride 2, a 1x1 convolution, BatchNorm, ReLU, and the same with stride 1.
    Without any, a 1x1 convolution to `width`. Then the mean over the map and a linear layer.
    """

    num_classes: int
    width: int
    halvings: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if not self.halvings:
            x = conv(self.width, 1, name="conv")(x)
        for i in range(self.halvings):
            channels = x.shape[-1]
            wider = self.width if i == self.halvings - 1 else 2 * channels
            for j, (stride, out) in enumerate(((2, channels), (1, wider))):
                x = depthwise(channels, stride, name=f"depthwise{i}_{j}")(x)
                x = conv(out, 1, name=f"pointwise{i}_{j}")(x)
                x = nn.relu(norm(f"bn{i}_{j}", train)(x))
        return nn.Dense(self.num_classes, kernel_init=_normal, name="fc")(pool(x))


class TokenExit(nn.Module):
    """Logits (B, K) of tokens (B, 1 + H W, D), the class token first; a distillation token behind it is left out.

    Four neighbouring patches become one (LayerNorm, a linear layer back to D, GELU). Then `blocks` transformer blocks
    of four heads over patches and class token, LayerNorm, and a linear layer of the class token.

    grid: (H, W), both even. D is a multiple of 4.

    Raises:
      InputError: a grid whose sides are not even.
    """

    num_classes: int
    grid: tuple[int, int]
    blocks: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        del train
        (height, width), depth = self.grid, x.shape[-1]
        if height % 2 or width % 2:
            raise InputError(f"exit: patches of a grid {height}x{width} cannot be merged by fours; both must be even")
        patches = x[:, -height * width :].reshape(-1, height // 2, 2, width // 2, 2, depth).transpose(0, 1, 3, 2, 4, 5)
        merged = nn.LayerNorm(name="norm")(patches.reshape(len(x), -1, 4 * depth))
        merged = nn.gelu(nn.Dense(depth, kernel_init=_normal, name="merge")(merged), approximate=False)
        x = jnp.concatenate([x[:, :1], merged], axis=1)
        for i in range(self.blocks):
            y = nn.LayerNorm(name=f"norm{i}_1")(x)
            x = x + nn.MultiHeadDotProductAttention(4, kernel_init=_normal, name=f"attention{i}")(y, y)
            y = nn.Dense(4 * depth, kernel_init=_normal, name=f"fc{i}_1")(nn.LayerNorm(name=f"norm{i}_2")(x))
            x = x + nn.Dense(depth, kernel_init=_normal, name=f"fc{i}_2")(nn.gelu(y, approximate=False))
        pooled = nn.LayerNorm(name="last_norm")(x)[:, 0]
        return nn.Dense(self.num_classes, kernel_init=_normal, name="fc")(pooled)
