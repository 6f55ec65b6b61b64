"""Networks in flax.linen, named exactly as in the papers' code; all return Outputs."""

from functools import partial

from flax import linen as nn

from kd_jax.models.base import apply, count_parameters, init, shapes, tail
from kd_jax.models.resnet import ResNet
from kd_jax.models.wrn import WideResNet
from kd_jax.typing import InputError, suggest

__all__ = ["MODELS", "apply", "count_parameters", "create", "init", "shapes", "tail"]

_X4 = (32, 64, 128, 256)

MODELS = {
    "resnet8": partial(ResNet, depth=8),
    "resnet14": partial(ResNet, depth=14),
    "resnet20": partial(ResNet, depth=20),
    "resnet32": partial(ResNet, depth=32),
    "resnet44": partial(ResNet, depth=44),
    "resnet56": partial(ResNet, depth=56),
    "resnet110": partial(ResNet, depth=110),
    "resnet8x4": partial(ResNet, depth=8, widths=_X4),
    "resnet32x4": partial(ResNet, depth=32, widths=_X4),
    "wrn_16_1": partial(WideResNet, depth=16, widen=1),
    "wrn_16_2": partial(WideResNet, depth=16, widen=2),
    "wrn_40_1": partial(WideResNet, depth=40, widen=1),
    "wrn_40_2": partial(WideResNet, depth=40, widen=2),
}


def create(name: str, num_classes: int, **overrides) -> nn.Module:
    """The network called `name` (letter case does not matter) with `num_classes` outputs.

    Args:
      name: a key of MODELS.
      num_classes: K.
      **overrides: fields of the network's class, for instance `widths=(4, 4, 8, 16)`.

    Raises:
      InputError: an unknown name; the message lists the known ones.
    """
    known = {key.lower(): factory for key, factory in MODELS.items()}
    if name.lower() not in known:
        raise InputError(f"unknown model {name!r}; {suggest(name, MODELS)}")
    return known[name.lower()](num_classes=num_classes, **overrides)
