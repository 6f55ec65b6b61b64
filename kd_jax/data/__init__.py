"""Data: sources by name, augmentation on the device, batches that are functions of the step."""

from difflib import get_close_matches
from functools import partial

from kd_jax.data import sources
from kd_jax.data.cifar import cifar
from kd_jax.data.sources import Arrays, Dataset
from kd_jax.typing import InputError

__all__ = ["SOURCES", "Arrays", "Dataset", "load"]

SOURCES = {
    "cifar10": partial(cifar, 10),
    "cifar100": partial(cifar, 100),
    "digits": sources.digits,
    "fashion_mnist": sources.fashion_mnist,
    "synthetic": sources.synthetic,
}
_IN_FILES = ("cifar10", "cifar100", "fashion_mnist")


def load(name: str, *, dir: str = "", synthetic: dict | None = None) -> Dataset:
    """The data set called `name`.

    Args:
      name: a key of SOURCES.
      dir: folder of its files, where it has files; "" is the data set's usual place.
      synthetic: sizes of the synthetic set.

    Raises:
      InputError: an unknown name, missing or unreadable files.
    """
    if name not in SOURCES:
        close = get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"data.name: unknown data set {name!r}; {hint}known: {', '.join(SOURCES)}")
    if name == "synthetic":
        return sources.synthetic(**(synthetic or {}))
    return SOURCES[name](dir=dir) if name in _IN_FILES else SOURCES[name]()
