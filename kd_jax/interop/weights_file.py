"""The networks in a file of weights: its state dicts, and the prefixes that networks stand behind.

A file may hold several networks: a distiller's checkpoint its `student.*` and `teacher.*`, timm's its `state_dict` and
`state_dict_ema`. Where more than one is meant by what is asked for, nothing is chosen silently: `FILE#PREFIX` chooses.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from kd_jax.interop import torch_read
from kd_jax.typing import InputError

COUNTER = "num_batches_tracked"
DEPTH = 8  # dicts within dicts that are looked into


class WeightsFile(NamedTuple):
    """The tensors of a file.

    tensors: name -> array. Names are those in the file; where it holds several state dicts, behind the keys of theirs
    (state_dict_ema.conv1.weight). about: what kd_jax wrote beside them (name, num_classes, image_shape, mean, std), or
    {}. digest: sha256 of the file. prefix: the choice of the caller among networks, None for no choice.
    """

    path: epath.Path
    tensors: dict[str, np.ndarray]
    about: Mapping
    digest: str
    prefix: str | None = None


class Fit(NamedTuple):
    """How a state dict fits a network. prefix: what stands before the names and is taken off. rivals: prefixes of other
    networks in the file that fit as well and hold other values."""

    prefix: str
    tensors: dict[str, np.ndarray]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]
    rivals: list[str]

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)


def read(path: str | epath.Path, prefix: str | None = None) -> WeightsFile:
    """The tensors in a .pth or .safetensors file.

    Args:
      path: the file, or FILE#PREFIX; an existing file whose name has a # is that file.
      prefix: as in FILE#PREFIX: the network's prefix, or such parts of it that no other network's prefix has
        (`teacher` for `module.teacher.`). None: the one in `path`, or no choice. "" is no prefix.

    Raises:
      InputError: not such a file, or it holds anything but tensors and plain containers, or no state dict.
    """
    if prefix is None and "#" in str(path) and not epath.Path(path).expanduser().exists():
        path, _, prefix = str(path).rpartition("#")
    path = epath.Path(path).expanduser()
    content = torch_read.read(path)
    states = dict(_state_dicts(content))
    if not states:
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: no state dict in it; it holds: {keys[:300]}")
    about = content.get("kd_jax", {}) if "" not in states else {}
    if not _described(about):
        raise InputError(f"{path}: what stands under kd_jax is no description of a network")
    if len(states) == 1:
        (tensors,) = states.values()
    else:
        tensors = {f"{place}.{name}": v for place, state in states.items() for name, v in state.items()}
    return WeightsFile(path, tensors, about, hashlib.sha256(path.read_bytes()).hexdigest(), prefix)


def _described(about: Any) -> bool:
    """Whether this is what kd_jax writes beside weights, or empty."""
    network = about.get("network", {}) if isinstance(about, dict) else None
    if not isinstance(network, dict):
        return False
    lists = [network.get(key, []) for key in ("mean", "std")]
    return (
        isinstance(network.get("name", ""), str)
        and type(network.get("num_classes", 1)) is int
        and all(isinstance(values, list) for values in lists)
        and all(type(x) in (int, float) and isfinite(x) for values in lists for x in values)
    )


def _state_dicts(content: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The dicts of arrays in a file, with the keys that lead to them, joined by dots. Each one once. Numbers and text
    among the arrays are left out."""
    left, visited = [((), content)], set()
    while left:
        place, value = left.pop()
        if not isinstance(value, dict) or id(value) in visited:
            continue
        visited.add(id(value))
        arrays = {k: v for k, v in value.items() if not isinstance(v, int | float | str | None)}
        if arrays and all(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in arrays.items()):
            yield ".".join(place), arrays
        elif len(place) < DEPTH:
            left += [((*place, k), inner) for k, inner in reversed(value.items()) if isinstance(k, str)]


def fit(file: WeightsFile, names: Mapping[str, tuple[int, ...]]) -> Fit:
    """How the tensors of a file fit a network: those behind the prefix that the most of them fit behind.

    Args:
      file: the file. Its prefix, where there is one, is the only one that is tried.
      names: name -> shape of the network's tensors.
    """
    groups = _groups(file.tensors, names)
    whole = [p for p, group in groups.items() if len(group) == len(names)]
    if file.prefix is not None:
        groups = _chosen(groups, file.prefix)
    scores = {p: (sum(g[k].shape == names[k] for k in g), len(g)) for p, g in groups.items()}
    most = max(scores.values(), default=None)
    best = [p for p in scores if scores[p] == most] or [file.prefix or ""]
    fits = sorted((_fit(file, names, p, whole) for p in best), key=lambda f: (len(f.unexpected), len(f.prefix)))
    first, *others = fits
    others = [f for f in others if len(f.unexpected) == len(first.unexpected)]
    return first._replace(rivals=sorted(f.prefix for f in others if not _same(f.tensors, first.tensors, names)))


def _groups(tensors: Mapping[str, np.ndarray], names: Mapping) -> dict[str, dict[str, np.ndarray]]:
    """Prefix -> the tensors behind it that have a name of the network."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in tensors.items():
        parts = key.split(".")
        for i in range(len(parts)):
            if (name := ".".join(parts[i:])) in names:
                groups.setdefault("".join(part + "." for part in parts[:i]), {})[name] = tensor
    return groups


def _chosen(groups: dict[str, dict], prefix: str) -> dict[str, dict]:
    """Those of the prefix, or else those of the prefixes that it is a part of."""
    dotted = prefix.removesuffix(".") + "." if prefix else ""
    if dotted in groups or not prefix:
        return {dotted: groups.get(dotted, {})}
    return {p: g for p, g in groups.items() if f".{dotted}" in f".{p}"}


def _fit(file: WeightsFile, names: Mapping, prefix: str, whole: Sequence[str]) -> Fit:
    """With one prefix. whole: prefixes that all of the names stand behind; another network is no part of this one."""
    inner = tuple(p for p in whole if p != prefix and p.startswith(prefix))
    keys = [k for k in file.tensors if k.startswith(prefix) and not (inner and k.startswith(inner))]
    under = {k.removeprefix(prefix): file.tensors[k] for k in keys}
    tensors = {k: v for k, v in under.items() if k.rpartition(".")[2] != COUNTER}
    both = [k for k in names if k in tensors]
    return Fit(
        prefix,
        tensors,
        missing=[f"{k} {names[k]}" for k in names if k not in tensors],
        unexpected=[f"{k} {v.shape}" for k, v in tensors.items() if k not in names],
        misshaped=[f"{k} is {tensors[k].shape}, not {names[k]}" for k in both if tensors[k].shape != names[k]],
        rivals=[],
    )


def _same(a: Mapping, b: Mapping, names: Mapping) -> bool:
    return all(k in a and k in b and np.array_equal(a[k], b[k]) for k in names if k in a or k in b)


def ambiguous(path: epath.Path, networks: Mapping[str, str]) -> InputError:
    """What is said where a file holds several networks. networks: prefix -> what it is."""
    listed = ", ".join(f"{prefix!r} ({network})" for prefix, network in sorted(networks.items()))
    example = max(networks, key=len)
    return InputError(
        f"{path}: holds {len(networks)} networks, behind the prefixes {listed}; choose one by FILE#PREFIX in a config "
        f"({path.name}#{example}), by --prefix of launch/import_weights.py (--prefix={example})"
    )
