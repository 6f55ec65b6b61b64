"""Networks that are trained already, and where they come from: a phase, a checkpoint, a file of weights."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from etils import epath
from flax import linen as nn

from kd_jax import models
from kd_jax.checkpoints import Checkpoints, network_digest
from kd_jax.methods.sftn import student_in
from kd_jax.models import weights
from kd_jax.typing import InputError, Variables, Vars
from kd_jax.workdir import place
from kd_jax.writers import say


class Network(NamedTuple):
    """A model with what must travel with its weights."""

    name: str
    model: nn.Module
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def told(self, **how) -> "Network":
        """The same, computing otherwise: fields of kd_jax.models.base.Net."""
        return self._replace(model=models.told(self.model, **how))

    def describe(self) -> dict:
        """As JSON, for a checkpoint's meta; the inverse of `network_of`."""
        return {k: v for k, v in self._asdict().items() if k != "model"}


def network_of(described: dict) -> Network:
    """The network that `describe` described."""
    model = models.create(described["name"], described["num_classes"])
    sequences = {k: tuple(described[k]) for k in ("image_shape", "mean", "std")}
    return Network(described["name"], model, described["num_classes"], **sequences)


class Loaded(NamedTuple):
    """Weights in memory. digest: of their content. source: the file they came from (file, sha256,
    prefix, dtype), or None. about: what kd_jax wrote beside them in that file, or {}."""

    variables: Variables
    digest: str
    source: dict | None = None
    about: Mapping = MappingProxyType({})


class Teacher(NamedTuple):
    """A teacher; its weights are read when they are needed. load: None of one that moves: the average of the
    network in training."""

    origin: str
    network: Network
    load: Callable[[], Loaded] | None


def of_phase(where: str, network: Network, workdir: epath.Path) -> Teacher:
    """The network that another phase of this run has trained by then. where: PHASE, or PHASE/LABEL for one that it
    trained beside its own."""
    name, _, label = where.partition("/")
    return Teacher(f"phase:{where}", network, lambda: _saved(workdir / name, label)[1])


def from_checkpoint(where: str) -> Teacher:
    """The newest good checkpoint in a phase's folder of another run, or of import_weights.

    Raises:
      InputError: nothing good is saved there.
    """
    folder = place(where)
    if not (folder / "checkpoints").exists():
        raise InputError(f"checkpoint:{where}: no checkpoints in {folder}; give the folder of a phase, WORKDIR/PHASE")
    return Teacher(f"checkpoint:{where}", _saved(folder)[0], lambda: _saved(folder)[1])


def from_file(path: str, like: Network) -> Teacher:
    """The network in a PyTorch or safetensors file, recognised by its names and shapes.

    Args:
      path: of the file.
      like: whose mean, std and image size it gets, unless the file names its own.

    Raises:
      InputError: not such a file, or of no network that is known.
    """
    found = weights.read(path)
    known = weights.recognise(found)
    if known is None:
        raise InputError(f"{path}: the names in it fit none of: {', '.join(models.MODELS)}")
    name, classes = known
    model = models.create(name, classes)
    shape = (*like.image_shape[:2], weights.image_channels(found, model))
    network = own_normalisation(
        found.about, like._replace(name=name, model=model, num_classes=classes, image_shape=shape)
    )
    return Teacher(f"weights:{path}", network, loader(path, network))


def from_branch(folder: epath.Path, label: str) -> Callable[[], Loaded]:
    """A function that reads the student's part of an SFTN teacher's branches, when it is called."""

    def load() -> Loaded:
        found = method_from(folder)()
        part = student_in(Vars(found.params[label], found.stats[label], {}))
        return Loaded(part, network_digest(part))

    return load


def method_from(folder: epath.Path) -> Callable[[], Vars]:
    """A function that reads what the members of a phase have trained of their own, when it is called.

    Raises:
      InputError: by that function: nothing good is saved there.
    """

    def load() -> Vars:
        if not (folder / "checkpoints").exists():
            raise InputError(f"no checkpoints in {folder}; give the folder of a phase, WORKDIR/PHASE")
        reader = Checkpoints(folder, read_only=True, say=say)
        found = reader.method()
        reader.close()
        return found

    return load


def loader(path: str, network: Network, **how) -> Callable[[], Loaded]:
    """A function that reads the file when it is first called. how: keywords of `weights.from_torch`."""

    @cache
    def load() -> Loaded:
        found = weights.read(path)
        shape, what = network.image_shape, f"{network.name} with {network.num_classes} classes"
        variables = weights.from_torch(found, network.model, shape, what=what, **how)
        fitted = weights.fit(found, network.model, shape, how.get("prefix"))
        stored = sorted({str(tensor.dtype) for tensor in fitted.tensors.values()})
        source = {"file": path, "sha256": found.digest, "prefix": fitted.prefix, "dtype": ", ".join(stored)}
        return Loaded(variables, network_digest(variables), source, found.about)

    return load


def own_normalisation(about: Mapping, network: Network) -> Network:
    """The network with the mean and deviation that stand beside its weights, if they do."""
    named = about.get("network", {})
    return network._replace(**{k: tuple(named[k]) for k in ("mean", "std") if k in named})


def _saved(folder: epath.Path, label: str = "") -> tuple[Network, Loaded]:
    """The newest good step of a phase's folder: its network, or the one with that label beside it."""
    reader = Checkpoints(folder, read_only=True, say=say)
    variables, meta = reader.network(label=label)
    reader.close()
    described = meta["networks"][label]["network"] if label else meta["network"]
    digest = network_digest(variables) if label else meta["digests"]["network"]
    return network_of(described), Loaded(variables, digest, meta.get("source"))
