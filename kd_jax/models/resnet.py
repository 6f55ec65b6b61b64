"""CIFAR ResNets (resnet8 ... resnet110, resnet8x4, resnet32x4), as mdistiller's and RepDistiller's.

Reference: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv 1512.03385. Parameter counts equal the published code's.
"""

from flax import linen as nn

from kd_jax.models.base import BatchNorm, conv, linear, pool
from kd_jax.typing import Array, Outputs


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Returns the sum before its ReLU."""

    width: int
    stride: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        def norm(name):
            return BatchNorm(use_running_average=not train, name=name)

        y = nn.relu(norm("bn1")(conv(self.width, 3, self.stride, name="conv1")(x)))
        y = norm("bn2")(conv(self.width, 3, name="conv2")(y))
        if self.project:
            x = norm("downsample_bn")(conv(self.width, 1, self.stride, name="downsample_conv")(x))
        return x + y


class Layer(nn.Module):
    """A stage: n blocks, the first with the stride. Returns the map before its last ReLU."""

    width: int
    blocks: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for b in range(self.blocks):
            first = {"stride": self.stride, "project": self.project} if b == 0 else {}
            x = BasicBlock(self.width, **first, name=f"block{b}")(x if b == 0 else nn.relu(x), train)
        return x


class ResNet(nn.Module):
    """depth = 6 n + 2; widths of the stem and the three stages.

    Differs: none in structure. `preacts[0]` is the stem after its ReLU, as in the published code.
    """

    depth: int
    widths: tuple[int, ...] = (16, 16, 32, 64)
    num_classes: int = 100

    def setup(self):
        self.conv1, self.bn1 = conv(self.widths[0], 3), BatchNorm()
        strides = (1, *[2] * (len(self.widths) - 2))
        self.layers = [
            Layer(width, (self.depth - 2) // 6, stride, project=stride > 1 or width != before)
            for before, width, stride in zip(self.widths[:-1], self.widths[1:], strides, strict=True)
        ]
        self.fc = linear(self.num_classes, self.widths[-1])

    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        stages, preacts = [], []
        if after < 0:
            x = nn.relu(self.bn1(self.conv1(x), use_running_average=not train))
            stages, preacts = [x], [x]
        for layer in self.layers[max(after, 0) :]:
            preacts.append(layer(x, train))
            x = nn.relu(preacts[-1])
            stages.append(x)
        pooled = pool(x)
        return Outputs(tuple(stages), tuple(preacts), pooled, self.fc(pooled))
