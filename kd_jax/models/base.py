"""What every network shares: its layers with PyTorch's numbers, and init / apply / tail.

A network is a flax.linen module `model(x, train=False, after=-1) -> Outputs`. With `after=i` it
takes `stages[i]` in place of an image and runs only what follows: that is all that student
branches on a teacher need.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.typing import Array, Outputs, PyTree, Variables

kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# use_fast_variance=False: E[x^2] - E[x]^2 cancels in float32; PyTorch does not use it either
BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)


def conv(width: int, size: int, stride: int = 1, **kwargs) -> nn.Conv:
    """Convolution without bias, Kaiming fan-out. Padding is explicit: SAME shifts at stride 2."""
    kwargs = {"use_bias": False, "kernel_init": kaiming, **kwargs}
    return nn.Conv(width, (size, size), (stride, stride), padding=size // 2, **kwargs)


def linear(num_classes: int, fan_in: int, *, bias_init=None) -> nn.Dense:
    """A classifier with PyTorch's default initialisation U(-1, 1) / sqrt(fan_in)."""

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) / fan_in**0.5

    return nn.Dense(num_classes, kernel_init=uniform, bias_init=bias_init or uniform)


def pool(x: Array) -> Array:
    """Average over the map: (B, H, W, C) -> (B, C)."""
    return jnp.mean(x, axis=(1, 2))


def init(model: nn.Module, key: Array, x: Array, after: int = -1) -> Variables:
    """Fresh variables of `model` for inputs like x (B, H, W, C); the part after a stage if asked."""
    made = model.init(key, x, train=False, after=after)
    return Variables(made["params"], made.get("batch_stats", {}))


def apply(
    model: nn.Module, variables: Variables, image: Array, train: bool = False, after: int = -1
) -> tuple[Outputs, PyTree]:
    """Run the network.

    Args:
      model: a network of kd_jax.models.
      variables: its parameters and running statistics.
      image: (B, H, W, C), already normalised with the mean and deviation the network goes with.
      train: BatchNorm over the batch, running statistics moved; else running statistics, kept.
      after: i to continue from `image = stages[i]` instead.

    Returns:
      (Outputs, stats): stats are the moved running statistics, or those given when not training.
    """
    tree = {"params": variables.params, "batch_stats": variables.stats}
    if not train:
        return model.apply(tree, image, train=False, after=after), variables.stats
    outputs, moved = model.apply(tree, image, train=True, after=after, mutable=["batch_stats"])
    return outputs, moved.get("batch_stats", {})


def tail(model: nn.Module, variables: Variables, x: Array, i: int, train: bool = False) -> Array:
    """Logits (B, K) of the network continued after `stages[i]` = x; the last i is pool and head.

    To train such a part, use `init` and `apply` with `after=i`, which return the statistics too.
    """
    return apply(model, variables, x, train, after=i)[0].logits


def shapes(model: nn.Module, image_shape: tuple[int, ...], batch: int = 1) -> tuple[Variables, Outputs]:
    """Shapes of the variables and of Outputs for images (H, W, C), without computing anything."""
    image = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    variables = jax.eval_shape(partial(init, model), jax.random.key(0), image)
    outputs, _ = jax.eval_shape(partial(apply, model), variables, image)
    return variables, outputs


def count_parameters(params: PyTree) -> int:
    """Number of trainable values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
