"""Residual networks: resnet8 ... resnet110, resnet8x4, resnet32x4, ResNet18, ResNet50; for ImageNet see imagenet.py.

Reference: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv 1512.03385.
"""

from typing import Any

from flax import linen as nn

from kd_jax.layers.basic import conv, head, linear, norm
from kd_jax.layers.cells import max_pool
from kd_jax.models.base import Net, block_of
from kd_jax.typing import Array, Outputs


class Block(nn.Module):
    """The options of a residual block. project: whether the shortcut has a projection. shortcut: name of that
    projection."""

    width: int
    stride: int
    project: bool
    shortcut: str


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut. Returns the sum before its ReLU."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(norm("bn1", train)(conv(self.width, 3, self.stride, name="conv1")(x)))
        y = norm("bn2", train)(conv(self.width, 3, name="conv2")(y))
        return y + _shortcut(self, x, train)


class Bottleneck(Block):
    """1x1 to a quarter of the width, 3x3, 1x1 back, and a shortcut. Returns the sum before its ReLU."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(norm("bn1", train)(conv(self.width // 4, 1, name="conv1")(x)))
        y = nn.relu(norm("bn2", train)(conv(self.width // 4, 3, self.stride, name="conv2")(y)))
        y = norm("bn3", train)(conv(self.width, 1, name="conv3")(y))
        return y + _shortcut(self, x, train)


def _shortcut(block: Block, x: Array, train: bool) -> Array:
    """The block's input, projected where its shape changes."""
    if not block.project:
        return x
    y = conv(block.width, 1, block.stride, name=f"{block.shortcut}.0")(x)
    return norm(f"{block.shortcut}.1", train)(y)


class Layer(nn.Module):
    """A stage: n blocks, the first with the stride. Returns the map before its last ReLU."""

    block: Any
    width: int
    blocks: int
    stride: int
    shortcut: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        project = self.stride > 1 or x.shape[-1] != self.width
        x = self.block(self.width, self.stride, project, self.shortcut, name="0")(x, train)
        for b in range(1, self.blocks):
            x = self.block(self.width, 1, False, self.shortcut, name=str(b))(nn.relu(x), train)
        return x


class ResNet(Net):
    """A 3x3 stem at full size, then stages of which all but the first halve the map.

    blocks: number of blocks, one number a stage. widths: of the stem and of every stage. shortcut, head: names of these
    parts in the published code. large: whether images are large; the stem is then 7x7 with stride 2, and a 3x3 max pool
    of stride 2 follows it. `preacts[0]` is the stem after its ReLU, as in the published code.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (16, 16, 32, 64)
    block: Any = BasicBlock
    shortcut: str = "downsample"
    head: str = "fc"
    large: bool = False
    num_classes: int = 100

    @property
    def bn_before_relu(self) -> tuple[str, ...]:
        """Of every stage but the stem, the parameters of the BatchNorm before its last ReLU: layer1/0/bn2, ..."""
        last = "bn3" if self.block is Bottleneck else "bn2"
        return tuple(f"layer{i}/{n - 1}/{last}" for i, n in enumerate(self.blocks, 1))

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        stages, preacts, block = [], [], block_of(self.block, self)
        if after < 0:
            stem = conv(self.widths[0], *((7, 2) if self.large else (3, 1)), name="conv1")
            x = nn.relu(norm("bn1", train)(stem(x)))
            stages, preacts = [x], [x]
        for i in range(max(after, 0), len(self.blocks)):
            if self.large and i == 0:
                x = max_pool(x, 3, 2, 1)
            layer = Layer(block, self.widths[i + 1], self.blocks[i], 2 if i else 1, self.shortcut, name=f"layer{i + 1}")
            preacts.append(layer(x, train))
            x = nn.relu(preacts[-1])
            stages.append(x)
        classifier = linear(self.num_classes, x.shape[-1], name=self.head)
        return Outputs(tuple(stages), tuple(preacts), *head(x, classifier))
