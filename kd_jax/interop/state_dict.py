"""Networks to and from PyTorch state dicts.

Our modules are named as in the published PyTorch code, so a name there is our path joined by dots;
what differs is the last part (kernel, scale: weight; mean, var: running_mean, running_var) and the
layout: a convolution is (O, I, H, W) there and (H, W, I, O) here, a linear layer (O, I) there and
(I, O) here; tokens (1, N, D) are the same. Counters of batches, `num_batches_tracked`, are written as 0 and ignored
when read.
"""

import hashlib
import math
from collections import Counter
from functools import lru_cache
from functools import partial as bind
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from flax import linen as nn

from kd_jax.interop import torch_read, torch_write
from kd_jax.models.base import init
from kd_jax.typing import InputError, Variables

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"
POSITIONS, PATCHES = "pos_embed", "patch_embed.proj.weight"  # of a ViT
WRAPPERS = ("model", "state_dict", "net", "model_state_dict")
ROWS = 12  # of a table of what does not fit, a kind


class Found(NamedTuple):
    """A state dict as it stands in a file.

    tensors: name -> array, names as in the file. about: what kd_jax wrote beside them (name,
    num_classes, image_shape, mean, std), or {}. digest: sha256 of the file.
    """

    path: epath.Path
    tensors: dict[str, np.ndarray]
    about: dict
    digest: str


class Fit(NamedTuple):
    """How a state dict fits a network. prefix: what stands before the names and is taken off."""

    prefix: str
    tensors: dict[str, np.ndarray]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)


def _name(path) -> str:
    *modules, last = (part.key for part in path)
    return ".".join([*modules, LEAVES.get(last, last)])


def _turned(array: np.ndarray, back: bool) -> np.ndarray:
    """Our layout in PyTorch's, or `back`."""
    if array.ndim == 4:
        return array.transpose((2, 3, 1, 0) if back else (3, 2, 0, 1))
    return array.T if array.ndim == 2 else array


def to_torch(variables: Variables) -> dict[str, np.ndarray]:
    """The state dict of a network: published name -> array in PyTorch's layout, sorted by name."""
    made = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tuple(variables)):
        name = _name(path[1:])
        made[name] = np.ascontiguousarray(_turned(np.asarray(leaf), back=False))
        if name.endswith("running_var"):
            made[name.removesuffix("running_var") + COUNTER] = np.zeros((), np.int64)
    return dict(sorted(made.items()))


@lru_cache(maxsize=64)
def _abstract(model: nn.Module, image_shape: tuple[int, ...]) -> Variables:
    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    return jax.eval_shape(bind(init, model), jax.eval_shape(jax.random.key, 0), image)


def published(model: nn.Module, image_shape: tuple[int, ...] = (32, 32, 3)) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter and statistic in the published state dict, counters left out."""
    leaves = jax.tree_util.tree_leaves_with_path(tuple(_abstract(model, image_shape)))
    return {_name(path[1:]): _turned(np.broadcast_to(0, leaf.shape), back=False).shape for path, leaf in leaves}


def read(path: str | epath.Path) -> Found:
    """The state dict in a .pth or .safetensors file, bare or under one of WRAPPERS.

    Raises:
      InputError: not such a file, or it holds anything but tensors and plain containers.
    """
    path = epath.Path(path).expanduser()
    content = whole = torch_read.read(path)
    while not _is_state_dict(content):
        inner = [content[w] for w in WRAPPERS if isinstance(content, dict) and isinstance(content.get(w), dict)]
        if not inner:
            keys = ", ".join(map(str, whole)) if isinstance(whole, dict) else type(whole).__name__
            raise InputError(f"{path}: no state dict in it, nor under {', '.join(WRAPPERS)}; it holds: {keys[:300]}")
        content = inner[0]
    about = whole.get("kd_jax", {}) if whole is not content else {}
    return Found(path, content, about, hashlib.sha256(path.read_bytes()).hexdigest())


def _is_state_dict(content) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in content.items())
    )


def fit(found: Found, model: nn.Module, image_shape: tuple[int, ...] = (32, 32, 3), prefix: str | None = None) -> Fit:
    """Compare names and shapes. prefix None: the one under which most of the network's names stand
    (of equals the student's); tensors outside it belong to something else."""
    names = published(model, image_shape)
    prefix = _prefix(found.tensors, names) if prefix is None else prefix
    under = {k.removeprefix(prefix): v for k, v in found.tensors.items() if k.startswith(prefix)}
    tensors = {k: v for k, v in under.items() if k.rpartition(".")[2] != COUNTER}
    both = [k for k in names if k in tensors]
    return Fit(
        prefix,
        tensors,
        missing=[f"{k} {names[k]}" for k in names if k not in tensors],
        unexpected=[f"{k} {v.shape}" for k, v in tensors.items() if k not in names],
        misshaped=[f"{k} is {tensors[k].shape}, not {names[k]}" for k in both if tensors[k].shape != names[k]],
    )


def _prefix(keys, names) -> str:
    found = Counter()
    for key in keys:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in names:
                found["".join(part + "." for part in parts[:i])] += 1
    return max(found, key=lambda p: (found[p], "student" in p, -len(p)), default="")


def image_channels(found: Found, model: nn.Module, prefix: str | None = None) -> int:
    """Channels of the images that the first convolution in the file takes."""
    tensors, wanted = fit(found, model, prefix=prefix).tensors, published(model)
    first = [v.shape[1] for k, v in tensors.items() if v.ndim == 4 and wanted.get(k, ())[1:2] == (3,)]
    return first[0] if len(first) == 1 else 3


def image_size(tensors: dict[str, np.ndarray]) -> int:
    """Pixels a side of the square images that a ViT's positions are for; of a network without positions 32, for its
    weights fit images of any size."""
    positions, patches = (tensors.get(name, np.zeros(())).shape for name in (POSITIONS, PATCHES))
    if len(positions) != 3 or len(patches) != 4:
        return 32
    return math.isqrt(max(positions[1] - 1, 0)) * patches[-1] or 32


def recognize(found: Found, prefix: str | None = None) -> tuple[str, int] | None:
    """The network of MODELS whose state dict this is, and its number of classes; None if there is none. A graft is
    known by the name that kd_jax wrote beside it; its tensors alone would pass for its student's."""
    from kd_jax.models import MODELS, create  # the registry stands above this file

    if any(".teacher_head." in f".{name}" for name in found.tensors):
        named = found.about.get("network", {})
        fits = named and fit(found, create(named["name"], named["num_classes"])).exact
        return (named["name"], named["num_classes"]) if fits else None
    for name, make in MODELS.items():
        model = make(num_classes=2)
        fitted, wanted = fit(found, model, prefix=prefix), published(model)
        if fitted.missing or fitted.unexpected:
            continue
        heads = {v.shape[:1] for k, v in fitted.tensors.items() if wanted[k][:1] == (2,)}
        size = image_size(fitted.tensors)
        shape = (size, size, image_channels(found, model, prefix))
        for (classes,) in filter(None, heads):
            if fit(found, make(num_classes=classes), shape, prefix).exact:
                return name, classes
    return None


def table(found: Found, fitted: Fit, what: str) -> str:
    """One line on what does not fit, and below it the names."""
    kinds = {"missing": fitted.missing, "unexpected": fitted.unexpected, "of another shape": fitted.misshaped}
    counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in kinds.items() if rows)
    behind = f" behind the prefix {fitted.prefix!r}" if fitted.prefix else ""
    lines = [f"{found.path}: does not fit {what}: {counts}, of {len(fitted.tensors)} tensors{behind}"]
    for kind, rows in kinds.items():
        lines += [f"  {kind}: {row}" for row in rows[:ROWS]]
        lines += [f"  {kind}: ... and {len(rows) - ROWS} more"] if len(rows) > ROWS else []
    return "\n".join(lines)


def from_torch(
    found: Found,
    model: nn.Module,
    image_shape: tuple[int, ...] = (32, 32, 3),
    *,
    prefix: str | None = None,
    partial: bool = False,
    what: str = "the network",
) -> Variables:
    """The network's variables from a state dict, float32 whatever the file has.

    Args:
      found: what `read` returned.
      model: network they are for.
      image_shape: (H, W, C); only C matters, of a ViT all.
      prefix: of the names; None finds it.
      partial: take what fits and leave the rest at its initial value (key 0), if anything fits.
      what: the network's name, for errors.

    Raises:
      InputError: names or shapes differ (a table), a ViT's positions are for images of another size, or values are
        not finite numbers.
    """
    fitted = fit(found, model, image_shape, prefix)
    wanted = published(model, image_shape)
    if [row.partition(" ")[0] for row in fitted.misshaped] == [POSITIONS] and not partial:
        size, (rows, columns, _) = image_size(fitted.tensors), image_shape
        raise InputError(
            f"{found.path}: its {POSITIONS} {fitted.tensors[POSITIONS].shape} is for images of {size}x{size}, those of "
            f"{what} are {rows}x{columns} and want {wanted[POSITIONS]}; positions are not interpolated"
        )
    taken = {k: v for k, v in fitted.tensors.items() if k in wanted and v.shape == wanted[k]}
    if not fitted.exact and not (partial and taken):
        known = recognize(found, prefix)
        hint = f"\n  it fits: {known[0]} with {known[1]} classes" if known else ""
        raise InputError(table(found, fitted, what) + hint)
    for name, array in taken.items():
        if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
            raise InputError(f"{found.path}: {name} is {array.dtype}, not a floating-point tensor")
        if not np.isfinite(array.astype(np.float32)).all():
            raise InputError(f"{found.path}: {name} holds values that are not finite")
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
      path: a .pth (zip or legacy format) or .safetensors file, of mdistiller, RepDistiller or alike;
        prefixes (module., student., ...) and wrappers (model, state_dict, net) are found and taken off.
      model: the network; every name and shape must be its own.
      image_shape: (H, W, C) of its images; only C matters, of a ViT all.

    Returns:
      Variables of float32 numpy arrays.

    Raises:
      InputError: not such a file, a file that wants to run code, or names or shapes that differ.
    """
    return from_torch(read(path), model, image_shape)


def save_torch(
    path: str, model: nn.Module, variables: Variables, about: dict | None = None, *, format: str = ""
) -> None:
    """Write a state dict with exactly the published names, as `{"model": state dict}` for torch.load or as a
    safetensors file.

    Args:
      path: file to write, replaced if it exists.
      model: the network.
      variables: its variables.
      about: what to write beside the weights, plain values; read back by `read`.
      format: "torch" or "safetensors"; "" goes by the ending of the file name.

    Raises:
      ValueError: variables of another network.
    """
    tensors = to_torch(variables)
    if {k for k in tensors if not k.endswith(COUNTER)} != set(published(model)):
        raise ValueError(f"{path}: these are not variables of {type(model).__name__}")
    format = format or ("safetensors" if str(path).endswith(".safetensors") else "torch")
    write = torch_write.write_safetensors if format == "safetensors" else torch_write.write_torch
    write(path, tensors, about or {})
