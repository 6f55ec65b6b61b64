"""Networks in flax.linen, named exactly as in the papers' code; all return Outputs."""

from functools import partial

from flax import linen as nn

from kd_jax.models import efficientnet, imagenet, vit
from kd_jax.models.base import apply, count_multiply_adds, count_parameters, init, shapes, tail, with_options
from kd_jax.models.graft import create_graft, parse
from kd_jax.models.mobilenet import MobileNetV2
from kd_jax.models.resnet import Bottleneck, ResNet
from kd_jax.models.shufflenet import ShuffleV1, ShuffleV2
from kd_jax.models.vgg import VGG
from kd_jax.models.wrn import WideResNet
from kd_jax.typing import InputError, suggest

__all__ = [
    "MODELS",
    "apply",
    "count_multiply_adds",
    "count_parameters",
    "create",
    "init",
    "shapes",
    "tail",
    "with_options",
]

_X4 = {"widths": (32, 64, 128, 256)}
_CIFAR_STEM = {"shortcut": "shortcut", "head": "linear"}  # mdistiller's resnetv2.py

MODELS = {
    "resnet8": partial(ResNet, blocks=(1, 1, 1)),
    "resnet14": partial(ResNet, blocks=(2, 2, 2)),
    "resnet20": partial(ResNet, blocks=(3, 3, 3)),
    "resnet32": partial(ResNet, blocks=(5, 5, 5)),
    "resnet44": partial(ResNet, blocks=(7, 7, 7)),
    "resnet56": partial(ResNet, blocks=(9, 9, 9)),
    "resnet110": partial(ResNet, blocks=(18, 18, 18)),
    "resnet8x4": partial(ResNet, blocks=(1, 1, 1), **_X4),
    "resnet32x4": partial(ResNet, blocks=(5, 5, 5), **_X4),
    "wrn_16_1": partial(WideResNet, depth=16, widen=1),
    "wrn_16_2": partial(WideResNet, depth=16, widen=2),
    "wrn_40_1": partial(WideResNet, depth=40, widen=1),
    "wrn_40_2": partial(WideResNet, depth=40, widen=2),
    "vgg8": partial(VGG, widths=((64,), (128,), (256,), (512,), (512,))),
    "vgg11": partial(VGG, widths=((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2)),
    "vgg13": partial(VGG, widths=((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2)),
    "vgg16": partial(VGG, widths=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)),
    "vgg19": partial(VGG, widths=((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)),
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleV1,
    "ShuffleV2": ShuffleV2,
    "ResNet18": partial(ResNet, blocks=(2, 2, 2, 2), widths=(64, 64, 128, 256, 512), **_CIFAR_STEM),
    "ResNet50": partial(
        ResNet, blocks=(3, 4, 6, 3), widths=(64, 256, 512, 1024, 2048), block=Bottleneck, **_CIFAR_STEM
    ),
    **imagenet.NETWORKS,
    **efficientnet.NETWORKS,
    **vit.NETWORKS,
}


def create(name: str, num_classes: int, **overrides) -> nn.Module:
    """The network called `name` (letter case does not matter) with `num_classes` outputs.

    Args:
      name: a key of MODELS, or "graft:STUDENT+TEACHER" (kd_jax.models.graft).
      num_classes: K.
      **overrides: fields of the network's class, for instance `widths=(4, 4, 8, 16)`.

    Raises:
      InputError: an unknown name; the message lists the known ones.
    """
    if parse(name):
        return create_graft(name, num_classes, create, **overrides)
    factories = {key.lower(): factory for key, factory in MODELS.items()}
    if name.lower() not in factories:
        raise InputError(f"unknown model {name!r}; {suggest(name, MODELS)}")
    return factories[name.lower()](num_classes=num_classes, **overrides)
