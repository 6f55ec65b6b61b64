"""Wide residual networks wrn_16_1, 16_2, 40_1, 40_2, as mdistiller's and RepDistiller's.

Reference: Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146.
"""

from flax import linen as nn

from kd_jax.models.base import BatchNorm, conv, linear, pool
from kd_jax.typing import Array, Outputs


class BasicBlock(nn.Module):
    """Pre-activation block. Returns (sum, its input after the first BatchNorm)."""

    width: int
    stride: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        def norm(name):
            return BatchNorm(use_running_average=not train, name=name)

        preact = norm("bn1")(x)
        y = nn.relu(preact)
        if self.project:
            x = conv(self.width, 1, self.stride, name="convShortcut")(y)
        y = nn.relu(norm("bn2")(conv(self.width, 3, self.stride, name="conv1")(y)))
        return x + conv(self.width, 3, name="conv2")(y), preact


class Block(nn.Module):
    """A stage: n blocks. Returns (map, the stage's input after its first BatchNorm)."""

    width: int
    blocks: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        first = BasicBlock(self.width, self.stride, self.project, name="layer0")
        x, preact = first(x, train)
        for b in range(1, self.blocks):
            x, _ = BasicBlock(self.width, name=f"layer{b}")(x, train)
        return x, preact


class WideResNet(nn.Module):
    """depth = 6 n + 4; three stages of 16, 32, 64 times `widen`.

    `stages` are the raw sums; `preacts[i]` is stage i after the BatchNorm that follows it, as in
    the published code. Differs: that code runs those BatchNorms twice a training step, so their
    running statistics move twice; here they move once.
    """

    depth: int
    widen: int
    num_classes: int = 100

    def setup(self):
        widths = (16, 16 * self.widen, 32 * self.widen, 64 * self.widen)
        self.conv1 = conv(widths[0], 3)
        self.blocks = [
            Block(width, (self.depth - 4) // 6, stride, project=width != before)
            for before, width, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
        ]
        self.bn1 = BatchNorm()
        self.fc = linear(self.num_classes, widths[-1], bias_init=nn.initializers.zeros)

    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        stages, normed = [], []  # normed[j]: BatchNorm of the map that enters what comes next
        if after < 0:
            x = self.conv1(x)
            stages = [x]
        stem = tuple(stages)
        for block in self.blocks[max(after, 0) :]:
            x, preact = block(x, train)
            normed.append(preact)
            stages.append(x)
        normed.append(self.bn1(x, use_running_average=not train))
        pooled = pool(nn.relu(normed[-1]))
        # the first one belongs to the map that came in, for which the published code has the raw stem
        return Outputs(tuple(stages), (*stem, *normed[1:]), pooled, self.fc(pooled))
