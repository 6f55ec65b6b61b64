"""Import of networks that other libraries trained, and export of ours."""

import os

import jax
import numpy as np
from etils import epath

from kd_jax import models
from kd_jax.data.cifar import MEAN, STD
from kd_jax.distributed.mesh import Layout, portable
from kd_jax.interop import state_dict
from kd_jax.interop.loaded import Loaded, loader, own_normalization
from kd_jax.models.network import Network, normalize
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.files import StorageError, writing
from kd_jax.storage.networks import save_network
from kd_jax.storage.workdir import resolve_path
from kd_jax.typing import InputError, Variables

FORMATS = ("safetensors", "torch", "stablehlo")


def import_weights(
    source: str,
    *,
    model: str,
    num_classes: int,
    out: str,
    image_size: int = 32,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    prefix: str | None = None,
    partial: bool = False,
    overwrite: bool = False,
) -> tuple[Network, Loaded]:
    """Read a network from a PyTorch or safetensors file and write it as a checkpoint that any phase can name.

    Args:
      source: .pth or .safetensors file; FILE#PREFIX is FILE and `prefix`.
      model: name of the network.
      num_classes: K.
      out: folder to write; `checkpoint:OUT` is then a teacher.
      image_size: pixels a side.
      mean: of images in [0, 1], one value a channel. () takes the file's, or CIFAR-100's where it has none.
      std: likewise.
      prefix: of the network's names in the file, or a part of it that no other network's has; None finds it.
      partial: take the tensors that fit and leave the others at their initial values.
      overwrite: replace a checkpoint in `out`.

    Returns:
      The network and its weights.

    Raises:
      InputError: a wrong file, name or number, or a folder that holds a checkpoint.
    """
    folder = _free(out, overwrite)
    module, file = models.create(model, num_classes), state_dict.read(source, prefix)
    channels = state_dict.image_channels(file, module)
    usual = (MEAN, STD) if channels == 3 else ((), ())
    name = next((k for k in models.MODELS if k.lower() == model.lower()), model)
    network = Network(name, module, num_classes, (image_size, image_size, channels), *usual)
    network = own_normalization(file.about, network)
    network = network._replace(mean=mean or network.mean, std=std or network.std)
    for flag, values in (("mean", network.mean), ("std", network.std)):
        if len(values) != channels or (flag == "std" and min(values) <= 0):
            raise InputError(f"--{flag}: {values}; one number a channel is needed, {channels} in all, a std above 0")
    loaded = loader(source, network, prefix=prefix, partial=partial)()
    checkpoints = Checkpoints(folder)
    save_network(checkpoints, loaded.variables, {"network": network.describe(), "source": loaded.source})
    checkpoints.wait()
    checkpoints.close()
    return network, loaded


def describe_import(network: Network, loaded: Loaded) -> list[str]:
    """Lines that describe an import: the network, its normalisation and its file."""
    count, source = models.count_parameters(loaded.variables.params), loaded.source
    behind = f", names behind {source['prefix']!r}" if source["prefix"] else ""
    return [
        f"{network.name}: {network.num_classes} classes, images {network.image_shape}, {count:,} parameters",
        f"normalised by mean {network.mean}, std {network.std}",
        f"from {source['file']} ({source['dtype']}){behind}; sha256 {source['sha256']}",
    ]


def _free(out: str, overwrite: bool) -> epath.Path:
    folder = resolve_path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out={out}: is a file, not a folder")
    if (folder / "checkpoints").exists():
        if not overwrite:
            raise InputError(f"--out={out}: holds a checkpoint already; name another folder or add --overwrite")
        (folder / "checkpoints").rmtree()
    return folder


def export(network: Network, variables: Variables, *, format: str, out: str) -> str:
    """Write a trained network to a file, read the file back and compare.

    Args:
      network: the network.
      variables: its weights.
      format: "safetensors" or "torch" (the published names; torch's is `{"model": state dict}`, as
        mdistiller's tools/eval.py loads it), or "stablehlo" (images (B, H, W, C) in [0, 1] to logits (B, K)
        for any B, by jax.export).
      out: file to write.

    Returns:
      A line that says what was written and checked.

    Raises:
      InputError: an unknown format, or a file that cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"--format={format}: known: {', '.join(FORMATS)}")
    target = resolve_path(out)
    if target.is_dir():
        raise InputError(f"--out={out}: is a folder; name a file")
    if os.path.exists(target) and not os.path.isfile(target):  # a device would be replaced
        raise InputError(f"--out={out}: is no plain file; name a file")
    variables = jax.tree.map(np.asarray, variables)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if format == "stablehlo":
        return _stablehlo(network, variables, target)
    about = {"network": network.describe()}
    models.save_torch(str(target), network.model, variables, about, format=format)
    again = models.load_torch(str(target), network.model, network.image_shape)
    same = jax.tree.map(np.array_equal, tuple(variables), tuple(again))
    if not all(jax.tree.leaves(same)):
        raise StorageError(f"{target}: read back, the weights are not those that were written")
    count = len(state_dict.to_torch(variables))
    return f"{target}: {network.name}, {count} tensors under the published names; read back, bit for bit the same"


def _stablehlo(network: Network, variables: Variables, target: epath.Path) -> str:
    def logits(image):
        return models.apply(network.model, variables, normalize(image, network.mean, network.std))[0].logits

    with writing(target):
        target.write_bytes(portable(logits, network.image_shape))
    compiled, again = (
        Layout((1,)).jit(logits, ins="r", outs="r"),
        jax.export.deserialize(bytearray(target.read_bytes())),
    )
    worst = 0.0
    for batch in (1, 3):
        image = np.random.default_rng(batch).uniform(size=(batch, *network.image_shape)).astype(np.float32)
        ours, theirs = np.asarray(compiled(image)), np.asarray(again.call(image))
        worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(ours).max()))
    if not worst < 1e-4:
        raise StorageError(f"{target}: read back, its logits differ by {worst:.1e} of the largest")
    return f"{target}: {network.name}, images {('B', *network.image_shape)} in [0, 1] to logits; " + (
        f"read back, the logits of batches of 1 and 3 agree to {worst:.1e} of the largest"
    )
