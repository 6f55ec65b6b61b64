"""ShuffleV1 and ShuffleV2 for 32 x 32 images, as mdistiller's and RepDistiller's.

References: Zhang, Zhou, Lin, Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices", 2017, arXiv 1707.01083. Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for
Efficient CNN Architecture Design", 2018, arXiv 1807.11164.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers import basic
from kd_jax.layers.basic import head, linear, norm, torch_default
from kd_jax.models.base import Net, block_of
from kd_jax.typing import Array, Outputs

conv = partial(basic.conv, kernel_init=torch_default)
depthwise = partial(basic.depthwise, kernel_init=torch_default)
STEM = 24


def shuffle(x: Array, groups: int) -> Array:
    """Reorder channels from (g, C / g) to (C / g, g), so that each group of the next convolution has channels of every
    group."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


class Bottleneck(nn.Module):
    """V1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1. Returns the map before its ReLU.

    With stride 2 the block concatenates the average-pooled input and the result; otherwise it adds the input to it.
    """

    width: int
    stride: int
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        inner = self.width // 4
        first = 1 if x.shape[-1] == STEM else self.groups
        y = nn.relu(norm("bn1", train)(conv(inner, 1, feature_group_count=first, name="conv1")(x)))
        y = depthwise(inner, self.stride, name="conv2")(shuffle(y, first))
        y = conv(self.width, 1, feature_group_count=self.groups, name="conv3")(nn.relu(norm("bn2", train)(y)))
        y = norm("bn3", train)(y)
        if self.stride == 1:
            return y + x
        return jnp.concatenate([y, nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))], axis=-1)


def trunk(layers: list[nn.Module], x: Array, train: bool, after: int) -> tuple[Array, list[Array], list[Array]]:
    """The stem of 24 and layers that return (map, map before its last ReLU). Returns the last map, all maps, and
    those before their ReLUs, the first of which is after it."""
    stages, preacts = [], []
    if after < 0:
        x = nn.relu(norm("bn1", train)(conv(STEM, 1, name="conv1")(x)))
        stages, preacts = [x], [x]
    for layer in layers[max(after, 0) :]:
        x, preact = layer(x, train)
        stages.append(x)
        preacts.append(preact)
    return x, stages, preacts


class LayerV1(nn.Module):
    """V1: n blocks, the first with stride 2. Returns (map, the map before its last ReLU)."""

    width: int
    blocks: int
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        x = Bottleneck(self.width - x.shape[-1], 2, self.groups, name="0")(x, train)
        for b in range(1, self.blocks):
            x = Bottleneck(self.width, 1, self.groups, name=str(b))(nn.relu(x), train)
        return nn.relu(x), x


class ShuffleV1(Net):
    """Stem of 24 and three stages at half the map each. `preacts[0]` is after its ReLU, as in the published code."""

    widths: tuple[int, ...] = (240, 480, 960)
    blocks: tuple[int, ...] = (4, 8, 4)
    groups: int = 3
    num_classes: int = 100

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        sizes = enumerate(zip(self.widths, self.blocks, strict=True))
        layer = block_of(LayerV1, self)
        layers = [layer(width, blocks, self.groups, name=f"layer{i + 1}") for i, (width, blocks) in sizes]
        x, stages, preacts = trunk(layers, x, train, after)
        classifier = linear(self.num_classes, x.shape[-1], name="linear")
        return Outputs(tuple(stages), tuple(preacts), *head(x, classifier))


class BasicBlock(nn.Module):
    """V2: half of the channels pass, the others are convolved. Returns (map, unshuffled map before its ReLU)."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        passed, y = jnp.split(x, 2, axis=-1)
        width = y.shape[-1]
        y = nn.relu(norm("bn1", train)(conv(width, 1, name="conv1")(y)))
        y = norm("bn2", train)(depthwise(width, name="conv2")(y))
        y = norm("bn3", train)(conv(width, 1, name="conv3")(y))
        out = shuffle(jnp.concatenate([passed, nn.relu(y)], axis=-1), 2)
        return out, jnp.concatenate([passed, y], axis=-1)


class DownBlock(nn.Module):
    """V2: two branches with stride 2 side by side."""

    width: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        half = self.width // 2
        left = norm("bn1", train)(depthwise(x.shape[-1], 2, name="conv1")(x))
        left = nn.relu(norm("bn2", train)(conv(half, 1, name="conv2")(left)))
        right = nn.relu(norm("bn3", train)(conv(half, 1, name="conv3")(x)))
        right = norm("bn4", train)(depthwise(half, 2, name="conv4")(right))
        right = nn.relu(norm("bn5", train)(conv(half, 1, name="conv5")(right)))
        return shuffle(jnp.concatenate([left, right], axis=-1), 2)


class LayerV2(nn.Module):
    """V2: a DownBlock and n BasicBlocks. Returns what the last one does."""

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        x = preact = DownBlock(self.width, name="0")(x, train)
        for b in range(self.blocks):
            x, preact = BasicBlock(name=str(b + 1))(x, train)
        return x, preact


class ShuffleV2(Net):
    """Stem of 24, three stages at half the map each, a 1x1 convolution to the last width.

    `preacts` as in the published code: [0] after its ReLU, the others before theirs and unshuffled, so that
    relu(preacts[i]) has the channels of stages[i] in another order.
    """

    widths: tuple[int, ...] = (116, 232, 464, 1024)
    blocks: tuple[int, ...] = (3, 7, 3)
    num_classes: int = 100

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        *widths, last = self.widths
        sizes = enumerate(zip(widths, self.blocks, strict=True))
        layer = block_of(LayerV2, self)
        layers = [layer(width, blocks, name=f"layer{i + 1}") for i, (width, blocks) in sizes]
        x, stages, preacts = trunk(layers, x, train, after)
        x = nn.relu(norm("bn2", train)(conv(last, 1, name="conv2")(x)))
        return Outputs(tuple(stages), tuple(preacts), *head(x, linear(self.num_classes, last, name="linear")))
