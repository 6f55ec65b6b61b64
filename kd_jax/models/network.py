"""A model with what must travel with its weights: classes, image shape, normalisation."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from kd_jax import models
from kd_jax.typing import Array


class Network(NamedTuple):
    """A model with what must travel with its weights."""

    name: str
    model: nn.Module
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def with_options(self, **how) -> "Network":
        """The same network with other values of the fields of kd_jax.models.base.Net."""
        return self._replace(model=models.with_options(self.model, **how))

    def describe(self) -> dict:
        """As JSON, for a checkpoint's meta; the inverse of `network_of`."""
        return {k: v for k, v in self._asdict().items() if k != "model"}


def network_of(described: dict) -> Network:
    """The network that `describe` described."""
    model = models.create(described["name"], described["num_classes"])
    sequences = {k: tuple(described[k]) for k in ("image_shape", "mean", "std")}
    return Network(described["name"], model, described["num_classes"], **sequences)


def normalize(image: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """(image - mean) / std over the channels of (B, H, W, C) in [0, 1]."""
    return (image - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
