"""Networks that are trained already, and where they come from: a phase, a checkpoint, a file of weights."""

from collections.abc import Callable
from typing import NamedTuple

from etils import epath

from kd_jax import models
from kd_jax.interop import state_dict
from kd_jax.interop.loaded import Loaded, loader, own_normalization
from kd_jax.models.network import Network, network_of
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.networks import network_digest, read_method, read_network, seed_in
from kd_jax.storage.progress import log_line
from kd_jax.storage.workdir import resolve_path
from kd_jax.typing import InputError, Vars


class Teacher(NamedTuple):
    """A teacher; its weights are read when they are needed. load: reads, of several seeds that were trained together,
    that of a seed if it is one of them, else the first; None of one that moves: the average of the network in
    training."""

    origin: str
    network: Network
    load: Callable[..., Loaded] | None


def of_phase(where: str, network: Network, workdir: epath.Path) -> Teacher:
    """The network that another phase of this run has trained by then. where: PHASE, or PHASE/LABEL for one that it
    trained beside its own."""
    name, _, label = where.partition("/")
    return Teacher(f"phase:{where}", network, lambda seed=None: _saved(workdir / name, label, seed)[1])


def from_checkpoint(where: str) -> Teacher:
    """The newest good checkpoint in a phase's folder of another run, or of import_weights.

    Raises:
      InputError: nothing good is saved there.
    """
    folder = resolve_path(where)
    if not (folder / "checkpoints").exists():
        raise InputError(f"checkpoint:{where}: no checkpoints in {folder}; give the folder of a phase, WORKDIR/PHASE")
    return Teacher(f"checkpoint:{where}", _saved(folder)[0], lambda seed=None: _saved(folder, seed=seed)[1])


def from_file(path: str, like: Network) -> Teacher:
    """The network in a PyTorch or safetensors file, recognised by its names and shapes.

    Args:
      path: of the file.
      like: whose mean, std and image size it gets, unless the file names its own.

    Raises:
      InputError: not such a file, or of no network that is known.
    """
    found = state_dict.read(path)
    known = state_dict.recognize(found)
    if known is None:
        raise InputError(f"{path}: the names in it fit none of: {', '.join(models.MODELS)}")
    name, classes = known
    model = models.create(name, classes)
    shape = (*like.image_shape[:2], state_dict.image_channels(found, model))
    network = own_normalization(
        found.about, like._replace(name=name, model=model, num_classes=classes, image_shape=shape)
    )
    return Teacher(f"weights:{path}", network, loader(path, network))


def method_reader(folder: epath.Path) -> Callable[..., Vars]:
    """A function that reads what the members of a phase have trained of their own, when it is called; for a seed, as
    `Teacher.load`.

    Raises:
      InputError: by that function: nothing good is saved there.
    """

    def load(seed: int | None = None) -> Vars:
        if not (folder / "checkpoints").exists():
            raise InputError(f"no checkpoints in {folder}; give the folder of a phase, WORKDIR/PHASE")
        reader = Checkpoints(folder, read_only=True, say=log_line)
        found = read_method(reader, seed)
        reader.close()
        return found

    return load


def _saved(folder: epath.Path, label: str = "", seed: int | None = None) -> tuple[Network, Loaded]:
    """The newest good step of a phase's folder: its network, or the one with that label beside it."""
    reader = Checkpoints(folder, read_only=True, say=log_line)
    variables, meta = read_network(reader, label=label, seed=seed)
    reader.close()
    described = meta["networks"][label]["network"] if label else meta["network"]
    chosen = seed_in(meta, seed)
    alone = not label and chosen is None
    digest = meta["digests"]["network"] if alone else network_digest(variables)
    return network_of(described), Loaded(variables, digest, meta.get("source"), seed=chosen)
