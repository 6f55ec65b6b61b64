"""Factor transfer's paraphraser and translator, and activation boundaries' connector."""

from flax import linen as nn

from kd_jax.layers.basic import conv, norm, torch_bias, torch_default, transposed_default
from kd_jax.layers.regressor import Regressor
from kd_jax.typing import Array

SLOPE = 0.1  # of the leaky ReLU


class Stack(nn.Module):
    """(B, H, W, *) to (B, H, W, widths[-1]) by 3x3 convolutions with bias, a leaky ReLU of slope 0.1 behind each.

    widths: of the convolutions in order. batch_norm: whether BatchNorm stands before every activation.
    transposed: kernels start as those of PyTorch's transposed convolutions; the arithmetic is the same.
    """

    widths: tuple[int, ...]
    batch_norm: bool = False
    transposed: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, width in enumerate(self.widths):
            bias = torch_bias(9 * (width if self.transposed else x.shape[-1]))
            kernel = transposed_default if self.transposed else torch_default
            x = conv(width, 3, use_bias=True, kernel_init=kernel, bias_init=bias, name=f"conv{i}")(x)
            x = norm(f"bn{i}", train)(x) if self.batch_norm else x
            x = nn.leaky_relu(x, SLOPE)
        return x


def encoder(width: int, factors: int, batch_norm: bool = False, **kwargs) -> Stack:
    """Maps of `width` to `factors`: one half of a paraphraser; with BatchNorm, the translator of a student."""
    return Stack((width, factors, factors), batch_norm, **kwargs)


class Paraphraser(nn.Module):
    """(B, H, W, C) to factors (B, H, W, factors), and from those to the map again: an autoencoder in width.

    factors: width of the factors. batch_norm: whether BatchNorm stands before every activation.
    Its parts are named encoder and decoder.
    """

    factors: int
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        width = x.shape[-1]
        factors = encoder(width, self.factors, self.batch_norm, name="encoder")(x, train)
        decoder = Stack((self.factors, width, width), self.batch_norm, transposed=True, name="decoder")
        return factors, decoder(factors, train)


class LinearRegressor(Regressor):
    """A Regressor of depth 1 without its ReLU: gives a student's map before the ReLU the teacher's shape."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        return norm("bn0", train)(self._first(x.shape[1:])(x))
