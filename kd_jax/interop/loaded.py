"""Weights read from a file, with where they came from."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from kd_jax.interop import state_dict
from kd_jax.models.network import Network
from kd_jax.storage.networks import network_digest
from kd_jax.typing import Variables


class Loaded(NamedTuple):
    """Weights in memory. digest: of their content. source: the file that they were read from (file, sha256, prefix,
    dtype), or None. about: the description that kd_jax wrote beside them in that file, or {}. seed: which one it is of
    several that were trained together, or None."""

    variables: Variables
    digest: str
    source: dict | None = None
    about: Mapping = MappingProxyType({})
    seed: int | None = None


def loader(path: str, network: Network, *, prefix: str | None = None, partial: bool = False) -> Callable[[], Loaded]:
    """A function that reads the network's weights when it is first called.

    Args:
      path: FILE or FILE#PREFIX, as `weights_file.read` takes it.
      network: whose weights they are.
      prefix: as `weights_file.read` takes it.
      partial: as `state_dict.from_torch` takes it.
    """

    @cache
    def load() -> Loaded:
        file = state_dict.read(path, prefix)
        shape, what = network.image_shape, f"{network.name} with {network.num_classes} classes"
        variables = state_dict.from_torch(file, network.model, shape, what=what, partial=partial)
        fitted = state_dict.fit(file, network.model, shape)
        stored = sorted({str(tensor.dtype) for tensor in fitted.tensors.values()})
        source = {
            "file": str(file.path), "sha256": file.digest, "prefix": fitted.prefix, "dtype": ", ".join(stored),
        }  # fmt: skip
        return Loaded(variables, network_digest(variables), source, file.about)

    return load


def own_normalization(about: Mapping, network: Network) -> Network:
    """The network with the mean and deviation that the description of its weights has, or else with those that its
    published weights are for, if they are for images of another kind than the data's."""
    described = {**getattr(network.model, "normalization", {}), **about.get("network", {})}
    return network._replace(**{k: tuple(described[k]) for k in ("mean", "std") if k in described})
