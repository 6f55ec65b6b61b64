"""Teachers, and where they come from: a phase, a checkpoint, a file of weights, a function, a table of logits."""

from collections.abc import Callable
from typing import NamedTuple

from etils import epath

from kd_jax import models
from kd_jax.data import Dataset
from kd_jax.interop import logits_file, python_function, state_dict
from kd_jax.interop.loaded import Loaded, loader, own_normalization
from kd_jax.models.network import Network, network_of
from kd_jax.models.outside import LogitsTable
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.networks import network_digest, read_method, read_network, seed_in
from kd_jax.storage.progress import log_line
from kd_jax.storage.workdir import resolve_path
from kd_jax.typing import InputError, Vars


class Teacher(NamedTuple):
    """A teacher; its weights are read when they are needed. load: reads, of several seeds that were trained together,
    that of a seed if it is one of them, else the first; None of one that moves: the average of the network in
    training. knows_tests: whether it has outputs for test images. note: a line that a person should read."""

    origin: str
    network: Network
    load: Callable[..., Loaded] | None
    knows_tests: bool = True
    note: str = ""


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
    file = state_dict.read(path)
    recognized = state_dict.recognize(file)
    if recognized is None:
        raise InputError(f"{path}: the names in it fit none of: {', '.join(models.MODELS)}")
    name, classes = recognized
    model = models.create(name, classes)
    shape = (*like.image_shape[:2], state_dict.image_channels(file, model))
    network = own_normalization(
        file.about, like._replace(name=name, model=model, num_classes=classes, image_shape=shape)
    )
    return Teacher(f"weights:{path}", network, loader(path, network))


def from_python(where: str, like: Network, batch_size: int) -> Teacher:
    """A function of images in [0, 1] that others wrote. It is made, and called as shapes, at once.

    Args:
      where: MODULE:FUNCTION; see `python_function.read`, also for errors.
      like: whose classes and images it is for.
      batch_size: of every batch that it will see.
    """
    data = {"num_classes": like.num_classes, "image_shape": like.image_shape}
    function = python_function.read(where, **data, batch_size=batch_size)
    size, channels = function.closed_over / 1e6, like.image_shape[-1]
    network = Network(f"python:{where}", function.model, **data, mean=(0.0,) * channels, std=(1.0,) * channels)
    note = f"closes over {size:.0f} MB, constants of the program; offered as its `params` they are arguments"
    return Teacher(network.name, network, lambda: function.loaded, note=note if size >= 1 else "")


def from_logits(where: str, like: Network, dataset: Dataset) -> Teacher:
    """Logits of the training set, and perhaps of the test set, that were computed elsewhere. They are read at once.

    Args:
      where: the .npz file; see `logits_file.read`, also for errors.
      like: whose classes and images they are for.
      dataset: that it teaches; of a part of a training set the table may have the whole.
    """
    sizes = {"train": len(dataset.train), "test": len(dataset.test)}
    loaded = logits_file.read(where, num_classes=like.num_classes, sizes=sizes, share=dataset.share)
    knows_tests, note = "test" in loaded.variables.stats, "an image has the same logits however it is augmented"
    if not knows_tests:
        note += "; there is no array test_logits, so that the teacher is not measured: no accuracy, no agreement"
    network = like._replace(name=f"logits:{where}", model=LogitsTable(like.num_classes))
    return Teacher(network.name, network, lambda: loaded, knows_tests, note)


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
        vars = read_method(reader, seed)
        reader.close()
        return vars

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
