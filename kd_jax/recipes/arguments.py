"""The argument of a config file: `configs/skd.py:resnet32x4,resnet8x4,smoke`."""

from typing import NamedTuple

from kd_jax import models
from kd_jax.recipes.defaults import LARGE, VIT
from kd_jax.typing import InputError


class Argument(NamedTuple):
    """What `configs/skd.py:resnet32x4,resnet8x4,smoke` says after the colon."""

    teacher: str
    student: str
    smoke: bool

    @property
    def large(self) -> bool:
        """Whether the pair is made for ImageNet's large images."""
        return large(self.student)

    @property
    def tokens(self) -> bool:
        """Whether the student is a vision transformer."""
        return LARGE.get(self.student.lower()) is VIT


def large(model: str) -> bool:
    """Whether a network is made for ImageNet's large images."""
    return model.lower() in LARGE


def argument(text: str | None, *, default: tuple[str, str] = ("resnet32x4", "resnet8x4")) -> Argument:
    """Teacher, student and size from the argument of get_config.

    Args:
      text: comma-separated: a pair of models, "smoke", both, or nothing.
      default: the pair where none is given.

    Raises:
      InputError: one model only, or an unknown word; one network for ImageNet beside one for small images.
    """
    pair, smoke = words(text)
    if len(pair) not in (0, 2):
        raise InputError(f"config argument {text!r}: give TEACHER,STUDENT and, if wanted, smoke")
    for name in pair:
        models.create(name, 2)  # an unknown name lists the known ones
    if len({large(name) for name in pair}) == 2:
        a, b = sorted(pair, key=large, reverse=True)
        raise InputError(f"config argument {text!r}: {a} is for ImageNet, {b} for small images; give two of a kind")
    return Argument(*(pair or default), smoke)


def words(text: str | None) -> tuple[list[str], bool]:
    """What stands between the commas of an argument of get_config, and whether "smoke" is among it."""
    found = [word.strip() for word in (text or "").split(",") if word.strip()]
    return [word for word in found if word != "smoke"], "smoke" in found
