"""What stands in for slower things in tests about running: it compiles in far less time.

A network of two convolutions for resnet8; its stages have resnet8's sizes: for 8 x 8 images 8, 8, 4 and 2 high. One
change of a map for DAFA's nine operations.
"""

from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from kd_jax import models
from kd_jax.layers import augment
from kd_jax.layers.basic import conv, head, linear, norm
from kd_jax.models.base import Net
from kd_jax.typing import Array, Outputs


class TinyNet(Net):
    """Four stages, each a BatchNorm and a ReLU behind a convolution (stages 0 and 2), nothing (1) or a pool (3)."""

    widths: tuple[int, ...] = (4, 8)
    num_classes: int = 10
    bn_before_relu = ("bn1", "bn2", "bn3")

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        layers = (
            conv(self.widths[0], 3, 1, name="conv1"),
            lambda x: x,
            conv(self.widths[1], 3, 2, name="conv2"),
            partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2)),
        )
        stages, preacts = [], []
        for i, layer in enumerate(layers):
            if i <= after:
                continue
            preacts.append(norm(f"bn{i}", train)(layer(x)))
            x = nn.relu(preacts[-1])
            stages.append(x)
        return Outputs(tuple(stages), tuple(preacts), *head(x, linear(self.num_classes, x.shape[-1], name="fc")))


@contextmanager
def in_place():
    """While inside, resnet8 is the tiny network, and resnet8x4 a wider one."""
    networks = {"resnet8": TinyNet, "resnet8x4": partial(TinyNet, widths=(8, 16))}
    before = {name: models.MODELS[name] for name in networks}
    models.MODELS.update(networks)
    try:
        yield
    finally:
        models.MODELS.update(before)


@contextmanager
def simple_operations():
    """While inside, DAFA's operations weaken a map and add noise; all that they are given, and its slopes, count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "apply_pair", _weaken)
        yield


def _weaken(x: Array, pair: Array, on: Array, magnitudes: Array, key: Array, *, published: bool = False) -> Array:
    del published
    share = jnp.prod(1 - on * magnitudes * (1 + pair) / 18)
    return share * x + 0.1 * (1 - share) * jax.random.normal(key, x.shape, x.dtype)
