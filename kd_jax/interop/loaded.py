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
    """Weights in memory. digest: of their content. source: the file they came from (file, sha256,
    prefix, dtype), or None. about: what kd_jax wrote beside them in that file, or {}."""

    variables: Variables
    digest: str
    source: dict | None = None
    about: Mapping = MappingProxyType({})


def loader(path: str, network: Network, **how) -> Callable[[], Loaded]:
    """A function that reads the file when it is first called. how: keywords of `state_dict.from_torch`."""

    @cache
    def load() -> Loaded:
        found = state_dict.read(path)
        shape, what = network.image_shape, f"{network.name} with {network.num_classes} classes"
        variables = state_dict.from_torch(found, network.model, shape, what=what, **how)
        fitted = state_dict.fit(found, network.model, shape, how.get("prefix"))
        stored = sorted({str(tensor.dtype) for tensor in fitted.tensors.values()})
        source = {"file": path, "sha256": found.digest, "prefix": fitted.prefix, "dtype": ", ".join(stored)}
        return Loaded(variables, network_digest(variables), source, found.about)

    return load


def own_normalization(about: Mapping, network: Network) -> Network:
    """The network with the mean and deviation that stand beside its weights, if they do."""
    named = about.get("network", {})
    return network._replace(**{k: tuple(named[k]) for k in ("mean", "std") if k in named})
