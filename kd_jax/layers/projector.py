"""Layers that give a student's map the teacher's width, each position alone: VID's regressor, OFD's connector."""

from flax import linen as nn

from kd_jax.layers.basic import conv, norm, torch_default
from kd_jax.typing import Array


class Projector(nn.Module):
    """VID's: (B, H, W, *) to (B, H, W, width) by three 1x1 convolutions without bias, ReLU between them.

    width: of all three.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(3):
            x = nn.relu(x) if i else x
            x = conv(self.width, 1, kernel_init=torch_default, name=f"conv{i}")(x)
        return x


class Connector(nn.Module):
    """OFD's: (B, H, W, *) to (B, H, W, width) by a 1x1 convolution and BatchNorm, without activation."""

    width: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        return norm("bn", train)(conv(self.width, 1, name="conv")(x))
