"""MobileNetV2 at half width for 32 x 32 images, as mdistiller's and RepDistiller's.

Reference: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", 2018, arXiv 1801.04381.
"""

from flax import linen as nn

from kd_jax.layers.basic import conv, depthwise, head, norm, small_linear
from kd_jax.models.base import Net, block_of
from kd_jax.typing import Array, Outputs

# by stage, the stem left out: groups of (number in the published code, width, blocks, stride)
STAGES = (
    ((0, 16, 1, 1), (1, 24, 2, 1)),
    ((2, 32, 3, 2),),
    ((3, 64, 4, 2), (4, 96, 3, 1)),
    ((5, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 depthwise, 1x1 down without activation; a shortcut where the shape stays."""

    width: int
    stride: int
    expand: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        inner = x.shape[-1] * self.expand
        y = nn.relu(norm("conv.1", train)(conv(inner, 1, name="conv.0")(x)))
        y = nn.relu(norm("conv.4", train)(depthwise(inner, self.stride, name="conv.3")(y)))
        y = norm("conv.7", train)(conv(self.width, 1, name="conv.6")(y))
        return x + y if x.shape == y.shape else y


class MobileNetV2(Net):
    """Stem (stride 2), four stages, a 1x1 convolution to 1280, pool and classifier.

    `preacts` is None: blocks end without an activation. `widen` multiplies every width but the last.
    """

    rectified = False

    widen: float = 0.5
    expand: int = 6
    num_classes: int = 100

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        stages, layer = [], block_of(InvertedResidual, self)
        if after < 0:
            x = conv(int(32 * self.widen), 3, 2, name="conv1.0")(x)
            x = nn.relu(norm("conv1.1", train)(x))
            stages = [x]
        for stage in STAGES[max(after, 0) :]:
            for number, width, blocks, stride in stage:
                for b in range(blocks):
                    block = (int(width * self.widen), 1 if b else stride, self.expand if number else 1)
                    x = layer(*block, name=f"blocks.{number}.{b}")(x, train)
            stages.append(x)
        x = nn.relu(norm("conv2.1", train)(conv(1280, 1, name="conv2.0")(x)))
        return Outputs(tuple(stages), None, *head(x, small_linear(self.num_classes, name="classifier.0")))
