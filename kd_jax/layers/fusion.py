"""ReviewKD's attention-based fusion: joins a stage of the student with the result of the deeper stages."""

import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers.basic import conv, norm, torch_bias, torch_default
from kd_jax.typing import Array

_kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # PyTorch's with a = 1


class Fusion(nn.Module):
    """(B, h, w, c) and the deeper result (B, *, *, mid) to (B, *shape) and this stage's result (B, H, W, mid).

    A 1x1 convolution to the width `mid` and BatchNorm come first. A deeper result is resized to the same size and
    added; a 1x1 convolution with bias and a sigmoid make the two weights of this sum at every position from both
    summands. The sum, resized to (H, W), is this stage's result. A 3x3 convolution and BatchNorm make the first output
    from it. All resizing takes the nearest cell.

    shape: (H, W, C) of the first output. mid: width of results.

    Reference: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", 2021, arXiv 2104.09044.
    """

    shape: tuple[int, int, int]
    mid: int

    @nn.compact
    def __call__(self, x: Array, deeper: Array | None = None, train: bool = False) -> tuple[Array, Array]:
        x = norm("bn1", train)(conv(self.mid, 1, kernel_init=_kaiming_uniform, name="conv1")(x))
        if deeper is not None:
            deeper = nearest(deeper, x.shape[1:3])
            start = {"kernel_init": torch_default, "bias_init": torch_bias(2 * self.mid)}
            gates = conv(2, 1, use_bias=True, **start, name="attention")(jnp.concatenate([x, deeper], axis=-1))
            x_weight, deeper_weight = jnp.split(nn.sigmoid(gates), 2, axis=-1)
            x = x * x_weight + deeper * deeper_weight
        x = nearest(x, self.shape[:2])
        y = conv(self.shape[-1], 3, kernel_init=_kaiming_uniform, name="conv2")(x)
        return norm("bn2", train)(y), x


def nearest(x: Array, size: tuple[int, ...]) -> Array:
    """(B, h, w, C) in another height and width: cell floor(i h / H) for every i, as PyTorch's "nearest"."""
    for axis, want in zip((1, 2), size, strict=True):
        have = x.shape[axis]
        if want % have == 0:  # no gather, whose gradient is a scatter
            x = jnp.repeat(x, want // have, axis=axis)
        else:
            x = jnp.take(x, jnp.arange(want) * have // want, axis=axis)
    return x
