"""Networks for ImageNet's large images: ResNets by torchvision's names and numbers, MobileNetV1 by mdistiller's.

References: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385.
Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam, "MobileNets: Efficient Convolutional Neural Networks
for Mobile Vision Applications", 2017, arXiv 1704.04861.
"""

from functools import partial

from flax import linen as nn

from kd_jax.layers import basic
from kd_jax.layers.basic import head, linear, norm, torch_default
from kd_jax.models.base import Net, block_of
from kd_jax.models.resnet import Bottleneck, ResNet
from kd_jax.typing import Array, Outputs

conv = partial(basic.conv, kernel_init=torch_default)
depthwise = partial(basic.depthwise, kernel_init=torch_default)

# by stage, the stem left out: (width, stride) of every block
STAGES = (
    ((64, 1), (128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *((512, 1),) * 5),
    ((1024, 2), (1024, 1)),
)


class Separable(nn.Module):
    """3x3 depthwise, 1x1, each with BatchNorm and ReLU. Returns the map before its last ReLU."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(norm("1", train)(depthwise(x.shape[-1], self.stride, name="0")(x)))
        return norm("4", train)(conv(self.width, 1, name="3")(y))


class MobileNetV1(Net):
    """A stem of stride 2, then 13 separable convolutions in four stages, of 1/4, 1/8, 1/16 and 1/32 the image's size.

    widen: multiplies every width.

    Differs: `stages[0]` is the stem, as in the other networks, and what the published code calls its stages follows;
    there the stem is no stage. The last map is pooled whole; there its first 7x7 places, which at 224x224 is the same.
    """

    widen: float = 1.0
    num_classes: int = 1000

    @property
    def bn_before_relu(self) -> tuple[str, ...]:
        """Of every stage but the stem, the parameters of the BatchNorm before its last ReLU."""
        return tuple(f"model.{_number(i)}/4" for i in range(1, len(STAGES) + 1))

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        stages, preacts, block = [], [], block_of(Separable, self)
        if after < 0:
            preacts.append(norm("model.0.1", train)(conv(int(32 * self.widen), 3, 2, name="model.0.0")(x)))
            x = nn.relu(preacts[0])
            stages.append(x)
        for i in range(max(after, 0), len(STAGES)):
            for number, (width, stride) in enumerate(STAGES[i], _number(i) + 1):
                preact = block(int(width * self.widen), stride, name=f"model.{number}")(x, train)
                x = nn.relu(preact)
            stages.append(x)
            preacts.append(preact)
        classifier = linear(self.num_classes, x.shape[-1], name="fc")
        return Outputs(tuple(stages), tuple(preacts), *head(x, classifier))


def _number(stage: int) -> int:
    """What the published code calls the last block of a stage; 0 is the stem."""
    return sum(map(len, STAGES[:stage]))


_resnet = partial(ResNet, large=True, num_classes=1000)
_basic = partial(_resnet, widths=(64, 64, 128, 256, 512))
_bottleneck = partial(_resnet, widths=(64, 256, 512, 1024, 2048), block=Bottleneck)

NETWORKS = {
    "imagenet_ResNet18": partial(_basic, blocks=(2, 2, 2, 2)),
    "imagenet_ResNet34": partial(_basic, blocks=(3, 4, 6, 3)),
    "imagenet_ResNet50": partial(_bottleneck, blocks=(3, 4, 6, 3)),
    "imagenet_ResNet101": partial(_bottleneck, blocks=(3, 4, 23, 3)),
    "imagenet_MobileNetV1": MobileNetV1,
}
