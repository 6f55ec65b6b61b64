"""Wide residual networks wrn_16_1, 16_2, 40_1, 40_2, as mdistiller's and RepDistiller's.

Reference: Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146.
"""

from typing import Any

from flax import linen as nn

from kd_jax.layers.basic import conv, head, linear, norm
from kd_jax.models.base import Net, block_of
from kd_jax.typing import Array, Outputs


class BasicBlock(nn.Module):
    """Pre-activation block. Returns (sum, its input after the first BatchNorm)."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        preact = norm("bn1", train)(x)
        y = nn.relu(preact)
        if x.shape[-1] != self.width:
            x = conv(self.width, 1, self.stride, name="convShortcut")(y)
        y = nn.relu(norm("bn2", train)(conv(self.width, 3, self.stride, name="conv1")(y)))
        return x + conv(self.width, 3, name="conv2")(y), preact


class Block(nn.Module):
    """A stage: n blocks. Returns (map, the stage's input after its first BatchNorm)."""

    block: Any
    width: int
    blocks: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        x, preact = self.block(self.width, self.stride, name="layer.0")(x, train)
        for b in range(1, self.blocks):
            x, _ = self.block(self.width, 1, name=f"layer.{b}")(x, train)
        return x, preact


class WideResNet(Net):
    """A stem of 16 and three stages of 16, 32, 64 times `widen`, of (depth - 4) / 6 blocks each.

    `stages` are the raw sums; `preacts[i]` is stage i after the BatchNorm that follows it, as in
    the published code. Differs: that code runs those BatchNorms twice a training step, so their
    running statistics move twice; here they move once.
    """

    rectified = False

    depth: int
    widen: int
    num_classes: int = 100

    @property
    def bn_before_relu(self) -> tuple[str, ...]:
        """Of every stage but the stem, the parameters of the BatchNorm that follows it."""
        return "block2/layer.0/bn1", "block3/layer.0/bn1", "bn1"

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        block = block_of(BasicBlock, self)
        stages, normed = [], []  # normed[j]: BatchNorm of the map that enters what comes next
        if after < 0:
            x = conv(16, 3, name="conv1")(x)
            stages = [x]
        stem = tuple(stages)
        for i in range(max(after, 0), 3):
            width = 16 * 2**i * self.widen
            stage = Block(block, width, (self.depth - 4) // 6, 2 if i else 1, name=f"block{i + 1}")
            x, preact = stage(x, train)
            normed.append(preact)
            stages.append(x)
        normed.append(norm("bn1", train)(x))
        classifier = linear(self.num_classes, x.shape[-1], name="fc", bias_init=nn.initializers.zeros)
        # the first one belongs to the map that came in, for which the published code has the raw stem
        return Outputs(tuple(stages), (*stem, *normed[1:]), *head(nn.relu(normed[-1]), classifier))
