"""lax's convolution, with a gradient by the kernel that is quick on a CPU.

XLA takes that gradient as a convolution of the turned input, channels first and images last. On a CPU it joins the
turning with the layers before the convolution, which it computes once more for that, in the turned order; that takes
a tenth of a resnet8x4's step, a fifth of a resnet20's (`python benchmarks/run.py step`). Here the input is turned as it
stands. Of groups XLA takes that gradient as if they were one; here each has its own. Depthwise convolutions are those
of kd_jax.layers.cells, and where no gradient is taken, as of a frozen teacher, wide 3 x 3 convolutions are those of
kd_jax.layers.winograd. The function is the same, and on other devices it is lax's own.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from kd_jax.layers.cells import depthwise_convolve
from kd_jax.layers.winograd import suits_winograd, winograd_convolve
from kd_jax.typing import Array


def convolve(x: Array, kernel: Array, strides, padding, *, dimension_numbers, **options) -> Array:
    """What `lax.conv_general_dilated` gives, for nn.Conv(conv_general_dilated=convolve).

    Its gradients are taken backwards, as losses need them; jax.jvp refuses it.

    Args:
      x: (B, H, W, C). kernel: (h, w, C / groups, D).
      strides, padding, dimension_numbers, options: as that function has them.
    """

    layer = partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    groups = options.get("feature_group_count", 1)

    def plain(x: Array, kernel: Array) -> Array:
        return layer(x, kernel, dimension_numbers=dimension_numbers)

    dilations = {n for name in ("lhs_dilation", "rhs_dilation") for n in options.get(name) or ()}
    if 1 < groups == x.shape[-1] == kernel.shape[-1] and dilations <= {1}:
        return depthwise_convolve(plain, x, kernel, strides, padding)

    def frozen(x: Array, kernel: Array) -> Array:
        """Where no gradient is taken."""
        if groups == 1 and dilations <= {1} and suits_winograd(x, kernel, strides, padding):
            return lax.platform_dependent(x, kernel, cpu=winograd_convolve, default=plain)
        return plain(x, kernel)

    def turned(x: Array, kernel: Array, upstream: Array) -> Array:
        """The gradient by the kernel of one group."""
        with set_xla_metadata(inlineable="false"):  # XLA joins this call with nothing
            x = _turn(x)
        numbers = dimension_numbers._replace(lhs_spec=(3, 0, 1, 2))
        one = partial(layer, x, dimension_numbers=numbers, feature_group_count=1)
        return jax.linear_transpose(one, kernel)(upstream)[0]

    def backward(saved: tuple[Array, Array], upstream: Array) -> tuple[Array, Array]:
        x, kernel = saved
        (by_input,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(upstream)
        if jax.default_backend() == "cpu":  # asked here, since who only counts a network's layers has no device
            parts = (jnp.split(of, groups, axis=-1) for of in (x, kernel, upstream))
            return by_input, jnp.concatenate(list(map(turned, *parts)), axis=-1)
        return (by_input, *jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(upstream))

    quick = jax.custom_vjp(frozen)
    quick.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
    return quick(x, kernel)


@jax.jit
def _turn(x: Array) -> Array:
    """(B, H, W, C) -> (C, H, W, B)."""
    return jnp.transpose(x, (3, 1, 2, 0))
