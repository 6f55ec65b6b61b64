"""The layers that networks and methods are built of, with PyTorch's numbers."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers.convolution import convolve
from kd_jax.typing import Array

kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(-1, 1) / sqrt(fan_in)
# PyTorch's for a transposed convolution, whose weight has the output's channels where others have the input's. With
# stride 1 it is a convolution with the reversed kernel
transposed_default = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
# use_fast_variance=False: E[x^2] - E[x]^2 cancels in float32; PyTorch does not use it either
BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)


def torch_bias(fan_in: int):
    """PyTorch's default initialiser for a bias: U(-1, 1) / sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) / fan_in**0.5

    return init


def norm(name: str, train: bool) -> nn.BatchNorm:
    """Batch normalisation with PyTorch's momentum and epsilon.

    Differs: the running variance takes the batch's biased variance, PyTorch's the unbiased one; with n
    values a channel they differ by the factor n / (n - 1).
    """
    return BatchNorm(use_running_average=not train, name=name)


def conv(width: int, size: int, stride: int = 1, **kwargs) -> nn.Conv:
    """Convolution without bias, Kaiming fan-out. PyTorch's padding is explicit: SAME shifts at stride 2."""
    kwargs = {"use_bias": False, "kernel_init": kaiming, "padding": size // 2, **kwargs}
    return nn.Conv(width, (size, size), (stride, stride), conv_general_dilated=convolve, **kwargs)


def depthwise(width: int, stride: int = 1, **kwargs) -> nn.Conv:
    """3x3 convolution of each channel alone."""
    return conv(width, 3, stride, feature_group_count=width, **kwargs)


def linear(width: int, fan_in: int, *, name: str, bias_init=None) -> nn.Dense:
    """A dense layer with PyTorch's default initialisation."""
    return nn.Dense(width, kernel_init=torch_default, bias_init=bias_init or torch_bias(fan_in), name=name)


def small_linear(num_classes: int, *, name: str) -> nn.Dense:
    """A classifier that starts near zero: N(0, 0.01), as in VGG and MobileNetV2."""
    return nn.Dense(num_classes, kernel_init=nn.initializers.normal(0.01), name=name)


def pool(x: Array) -> Array:
    """Average over the map: (B, H, W, C) -> (B, C)."""
    return jnp.mean(x, axis=(1, 2))


def head(x: Array, classifier: nn.Dense) -> tuple[Array, Array, Array]:
    """The end of a network: the last map (B, H, W, C) pooled to (B, C), logits (B, K), and class activation maps
    (B, H, W, K), the same classifier at every place. Where nothing reads the maps, the compiler drops them."""
    pooled = pool(x)
    return pooled, classifier(pooled), classifier(x)
