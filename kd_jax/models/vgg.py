"""VGG with batch normalisation and one linear layer: vgg8, 11, 13, 16, 19, as mdistiller's and RepDistiller's.

Reference: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
2014, arXiv 1409.1556.
"""

from flax import linen as nn

from kd_jax.layers.basic import conv, head, norm, small_linear
from kd_jax.layers.cells import max_pool
from kd_jax.models.base import Net, block_of
from kd_jax.typing import Array, Outputs


class Block(nn.Module):
    """3x3 convolutions with bias and BatchNorm, ReLU between them. Returns the map before its last ReLU."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for i, width in enumerate(self.widths):
            x = conv(width, 3, use_bias=True, name=str(3 * i))(x if i == 0 else nn.relu(x))
            x = norm(str(3 * i + 1), train)(x)
        return x


class VGG(Net):
    """Five blocks of the given widths, max pooling between the first four.

    The published code also pools before the last block where images are 64 pixels high. This code pools there where the
    fourth map is 8 pixels high, which gives the same for images of 32 and 64. `preacts[0]` is after its ReLU, as in the
    published code.
    """

    widths: tuple[tuple[int, ...], ...]
    num_classes: int = 100

    @property
    def bn_before_relu(self) -> tuple[str, ...]:
        """Of every stage but the stem, the parameters of the BatchNorm before its last ReLU: block1/1, ..."""
        return tuple(f"block{i}/{3 * len(widths) - 2}" for i, widths in enumerate(self.widths) if i)

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        stages, preacts, block = [], [], block_of(Block, self)
        for i in range(after + 1, len(self.widths)):
            if 0 < i < 4 or (i == 4 and x.shape[1] == 8):
                x = max_pool(x, 2, 2)
            preact = block(self.widths[i], name=f"block{i}")(x, train)
            x = nn.relu(preact)
            stages.append(x)
            preacts.append(preact if i else x)
        return Outputs(tuple(stages), tuple(preacts), *head(x, small_linear(self.num_classes, name="classifier")))
