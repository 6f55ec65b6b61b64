"""The argument of a config file: `configs/skd.py:resnet32x4,resnet8x4,smoke`."""

from typing import NamedTuple

from kd_jax import models
from kd_jax.recipes.defaults import LARGE, VIT
from kd_jax.typing import InputError


class Argument(NamedTuple):
    """The argument of a config file, read: the names of two networks, and whether the run is a smoke test."""

    teacher: str
    student: str
    smoke: bool

    @property
    def large(self) -> bool:
        """Whether the networks are made for the large images of ImageNet."""
        return large(self.student)

    @property
    def tokens(self) -> bool:
        """Whether the student is a vision transformer."""
        return is_transformer(self.student)


def large(model: str) -> bool:
    """Whether a network is made for the large images of ImageNet. model: its name, in any letter case."""
    return model.lower() in LARGE


def is_transformer(model: str) -> bool:
    """Whether a network is a vision transformer. model: its name, in any letter case."""
    return LARGE.get(model.lower()) is VIT


def argument(text: str | None, *, default: tuple[str, str] = ("resnet32x4", "resnet8x4")) -> Argument:
    """Read the argument of get_config: teacher, student and size.

    Args:
      text: words with commas between: two networks, "smoke", both, or nothing.
      default: the two networks where the text names none.

    Raises:
      InputError: the text names one network, or more than two, or an unknown one; or it names one network for ImageNet
        and one for small images.
    """
    pair, smoke = words(text)
    if len(pair) not in (0, 2):
        raise InputError(f"config argument {text!r}: give TEACHER,STUDENT and, if wanted, smoke")
    for name in pair:
        models.create(name, 2)  # an unknown name lists the known ones
    if len({large(name) for name in pair}) == 2:
        big, small = sorted(pair, key=large, reverse=True)
        raise InputError(
            f"config argument {text!r}: {big} is for ImageNet, {small} for small images; give two of a kind"
        )
    return Argument(*(pair or default), smoke)


def words(text: str | None) -> tuple[list[str], bool]:
    """Split an argument of get_config at its commas: its words without "smoke", and whether "smoke" is one of them."""
    every = [word.strip() for word in (text or "").split(",") if word.strip()]
    return [word for word in every if word != "smoke"], "smoke" in every
