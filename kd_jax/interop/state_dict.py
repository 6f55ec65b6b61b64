"""Networks to and from PyTorch state dicts.

Our modules have the names of the published PyTorch code, so a name there is our path joined by dots. Two things differ.
The last part of a name: kernel and scale are weight there; mean and var are running_mean and running_var. The layout: a
convolution is (O, I, H, W) there and (H, W, I, O) here, a linear layer (O, I) there and (I, O) here; tokens (1, N, D)
are the same. The counters of batches, `num_batches_tracked`, are written as 0 and are not read.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from functools import partial as bind

import jax
import numpy as np
from flax import linen as nn

from kd_jax.interop import torch_write, weights_file
from kd_jax.interop.weights_file import COUNTER, Fit, WeightsFile, ambiguous, read
from kd_jax.models.base import init
from kd_jax.typing import InputError, Variables

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
POSITIONS, PATCHES = "pos_embed", "patch_embed.proj.weight"  # of a ViT
ROWS = 12  # of a table of what does not fit, a kind


def _name(path) -> str:
    *modules, last = (part.key for part in path)
    return ".".join([*modules, LEAVES.get(last, last)])


def _turned(array: np.ndarray, back: bool) -> np.ndarray:
    """An array of our layout in PyTorch's; with `back` one of PyTorch's in ours."""
    if array.ndim == 4:
        return array.transpose((2, 3, 1, 0) if back else (3, 2, 0, 1))
    return array.T if array.ndim == 2 else array


def to_torch(variables: Variables) -> dict[str, np.ndarray]:
    """The state dict of a network: published name -> array in PyTorch's layout, sorted by name."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tuple(variables)):
        name = _name(path[1:])
        tensors[name] = np.ascontiguousarray(_turned(np.asarray(leaf), back=False))
        if name.endswith("running_var"):
            tensors[name.removesuffix("running_var") + COUNTER] = np.zeros((), np.int64)
    return dict(sorted(tensors.items()))


@lru_cache(maxsize=64)
def _abstract(model: nn.Module, image_shape: tuple[int, ...]) -> Variables:
    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    return jax.eval_shape(bind(init, model), jax.eval_shape(jax.random.key, 0), image)


def published(model: nn.Module, image_shape: tuple[int, ...] = (32, 32, 3)) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter and statistic in the published state dict, without counters."""
    leaves = jax.tree_util.tree_leaves_with_path(tuple(_abstract(model, image_shape)))
    return {_name(path[1:]): _turned(np.broadcast_to(0, leaf.shape), back=False).shape for path, leaf in leaves}


def fit(file: WeightsFile, model: nn.Module, image_shape: tuple[int, ...] = (32, 32, 3)) -> Fit:
    """How the names and shapes in a file fit those of a network; see `weights_file.fit`."""
    return weights_file.fit(file, published(model, image_shape))


def image_channels(file: WeightsFile, model: nn.Module) -> int:
    """Number of image channels that the first convolution in the file takes; 3 where that is unclear."""
    tensors, wanted = fit(file, model).tensors, published(model)
    first = [v.shape[1] for k, v in tensors.items() if v.ndim == 4 and wanted.get(k, ())[1:2] == (3,)]
    return first[0] if len(first) == 1 else 3


def image_size(tensors: dict[str, np.ndarray]) -> int:
    """Pixels a side of the square images for which a ViT has positions. 32 for a network without positions, whose
    weights fit images of any size."""
    positions, patches = (tensors.get(name, np.zeros(())).shape for name in (POSITIONS, PATCHES))
    if len(positions) != 3 or len(patches) != 4:
        return 32
    return math.isqrt(max(positions[1] - 1, 0)) * patches[-1] or 32


def recognize(file: WeightsFile) -> tuple[str, int] | None:
    """Name in MODELS and number of classes of the network in the file; None if no network fits.

    Raises:
      InputError: there are several, and `file.prefix` does not choose one.
    """
    networks = networks_in(file)
    if len(networks) > 1:
        raise ambiguous(file.path, {p: f"{name}, {classes} classes" for p, (name, classes) in networks.items()})
    return next(iter(networks.values()), None)


def networks_in(file: WeightsFile) -> dict[str, tuple[str, int]]:
    """Prefix -> name in MODELS and number of classes, for each network in the file.

    A graft is recognised by the name that kd_jax wrote beside it, because its student alone fits its tensors too.
    """
    from kd_jax.models import MODELS, create  # the registry stands above this file

    if any(".teacher_head." in f".{name}" for name in file.tensors):
        described = file.about.get("network", {})
        complete = {"name", "num_classes"} <= described.keys()
        fits = complete and fit(file, create(described["name"], described["num_classes"])).exact
        return {"": (described["name"], described["num_classes"])} if fits else {}
    networks: dict[str, tuple[str, int]] = {}
    for name, make in MODELS.items():
        for prefix, classes in _fits_of(file, make).items():
            networks.setdefault(prefix, (name, classes))
        if not _left(file, networks):
            break
    return networks


def _left(file: WeightsFile, prefixes: Iterable[str]) -> bool:
    """Whether the file holds matrices or convolutions outside of these networks."""
    return any(v.ndim > 1 and not name.startswith(tuple(prefixes)) for name, v in file.tensors.items())


def _fits_of(file: WeightsFile, make: Callable[..., nn.Module]) -> dict[str, int]:
    """Prefix -> number of classes, for the networks of one architecture in the file; one prefix for equal networks."""
    fitted, wanted = fit(file, make(num_classes=2)), published(make(num_classes=2))
    if fitted.missing or fitted.unexpected:
        return {}
    fits = {}
    for prefix in (fitted.prefix, *fitted.rivals):
        chosen = file._replace(prefix=prefix)
        tensors = fit(chosen, make(num_classes=2)).tensors
        size, channels = image_size(tensors), image_channels(chosen, make(num_classes=2))
        for classes in {v.shape[0] for k, v in tensors.items() if wanted[k][:1] == (2,) and v.ndim}:
            if fit(chosen, make(num_classes=classes), (size, size, channels)).exact:
                fits[prefix] = classes
    return fits


def _behind(prefix: str) -> str:
    return f" behind the prefix {prefix!r}" if prefix else ""


def table(file: WeightsFile, fitted: Fit, what: str) -> str:
    """A line that counts what does not fit, and below it lines with the names."""
    kinds = {"missing": fitted.missing, "unexpected": fitted.unexpected, "of another shape": fitted.misshaped}
    counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in kinds.items() if rows)
    lines = [f"{file.path}: does not fit {what}: {counts}, of {len(fitted.tensors)} tensors{_behind(fitted.prefix)}"]
    for kind, rows in kinds.items():
        lines += [f"  {kind}: {row}" for row in rows[:ROWS]]
        lines += [f"  {kind}: ... and {len(rows) - ROWS} more"] if len(rows) > ROWS else []
    if not fitted.tensors and file.tensors:
        lines.append(
            f"  names in the file begin with: {', '.join(sorted({k.split('.')[0] for k in file.tensors})[:ROWS])}"
        )
    return "\n".join(lines)


def from_torch(
    file: WeightsFile,
    model: nn.Module,
    image_shape: tuple[int, ...] = (32, 32, 3),
    *,
    partial: bool = False,
    what: str = "the network",
) -> Variables:
    """The network's variables from a state dict, as float32 whatever type the file has.

    Args:
      file: what `read` returned.
      model: the network.
      image_shape: (H, W, C); only C matters, of a ViT all.
      partial: take the tensors that fit, if there are any, and leave the others at their initial values (key 0).
      what: the network's name, for errors.

    Raises:
      InputError: names or shapes differ (a table), several networks fit and `file.prefix` chooses none of them, a
        ViT's positions are for images of another size, values are not finite numbers, or variances negative.
    """
    fitted = fit(file, model, image_shape)
    wanted = published(model, image_shape)
    if [row.partition(" ")[0] for row in fitted.misshaped] == [POSITIONS] and not partial:
        size, (rows, columns, _) = image_size(fitted.tensors), image_shape
        raise InputError(
            f"{file.path}: its {POSITIONS} {fitted.tensors[POSITIONS].shape} is for images of {size}x{size}, those of "
            f"{what} are {rows}x{columns} and want {wanted[POSITIONS]}; positions are not interpolated"
        )
    taken = {k: v for k, v in fitted.tensors.items() if k in wanted and v.shape == wanted[k]}
    if not fitted.exact and not (partial and taken):
        networks = networks_in(file).items() if fitted.tensors else ()
        hints = [
            f"\n  it fits: {name} with {classes} classes{_behind(p) if len(networks) > 1 else ''}"
            for p, (name, classes) in networks
        ]
        raise InputError(table(file, fitted, what) + "".join(hints))
    if fitted.rivals:
        raise ambiguous(file.path, dict.fromkeys((fitted.prefix, *fitted.rivals), what))
    for name, array in taken.items():
        if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
            raise InputError(f"{file.path}: {name} is {array.dtype}, not a floating-point tensor")
        values = array.astype(np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{file.path}: {name} holds values that are not finite")
        if name.endswith("running_var") and (values < 0).any():
            raise InputError(f"{file.path}: {name} holds variances below 0")
    start = _abstract(model, image_shape)
    if not fitted.exact:
        start = init(model, jax.random.key(0), np.zeros((1, *image_shape), np.float32))

    def pick(path, leaf):
        name = _name(path[1:])
        if name not in taken:
            return np.asarray(leaf)
        return np.ascontiguousarray(_turned(taken[name].astype(np.float32), back=True))

    return Variables(*jax.tree_util.tree_map_with_path(pick, tuple(start)))


def load_torch(path: str, model: nn.Module, image_shape: tuple[int, ...] = (32, 32, 3)) -> Variables:
    """Variables of `model` from a PyTorch checkpoint, without PyTorch.

    Args:
      path: a .pth (zip or legacy format) or .safetensors file, of mdistiller, RepDistiller or alike. Prefixes (module.,
        student., ...) and dicts around the state dict are found and taken off; FILE#PREFIX chooses one of several
        networks.
      model: the network; every name and shape must be its own.
      image_shape: (H, W, C) of its images; only C matters, of a ViT all.

    Returns:
      Variables of float32 numpy arrays.

    Raises:
      InputError: not such a file, a file that wants to run code, names or shapes that differ, or several networks that
        fit.
    """
    return from_torch(read(path), model, image_shape)


def save_torch(
    path: str, model: nn.Module, variables: Variables, about: dict | None = None, *, format: str = ""
) -> None:
    """Write a state dict with exactly the published names: `{"model": state dict}` for torch.load, or a safetensors
    file.

    Args:
      path: file to write, replaced if it exists.
      model: the network.
      variables: its variables.
      about: plain values to write beside the weights; `read` returns them.
      format: "torch" or "safetensors"; "" chooses by the ending of the file name.

    Raises:
      ValueError: variables of another network.
    """
    tensors = to_torch(variables)
    if {k for k in tensors if not k.endswith(COUNTER)} != set(published(model)):
        raise ValueError(f"{path}: these are not variables of {type(model).__name__}")
    format = format or ("safetensors" if str(path).endswith(".safetensors") else "torch")
    write = torch_write.write_safetensors if format == "safetensors" else torch_write.write_torch
    write(path, tensors, about or {})
