"""What a saved phase holds for others: its network, those trained beside it, and what its method has trained.

The item `network` is {"params", "stats"}. The item `training` is flat, path -> array: optax's tuples need no
description on disk. Below "['method']" there are the method's own variables.

Where several seeds were trained together, the meta names them ("seeds"), and both items hold such a tree for each,
under its number.
"""

import re

import jax

from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.digests import digest
from kd_jax.typing import InputError, PyTree, Variables, Vars

_STEP = re.compile(r"\['(.*?)'\]|\.(\w+)|\[(\d+)\]")  # of a path: a key, a field of a NamedTuple, a position


def network_item(variables: Variables) -> dict:
    """The item `network`."""
    return {"params": variables.params, "stats": variables.stats}


def network_digest(variables: Variables) -> str:
    """The digest that a network's weights have in a checkpoint."""
    return digest(network_item(variables))


def save_network(checkpoints: Checkpoints, variables: Variables, meta: dict) -> None:
    """Save a network that others trained, as step 0; errors as for `Checkpoints.save`."""
    checkpoints.save(0, {"network": network_item(variables)}, meta)


def seed_in(meta: dict, seed: int | None) -> int | None:
    """Which of the seeds of a checkpoint is read when one is asked for, or none: that one if it is there, else the
    first; None where one network was trained alone."""
    seeds = [entry["seed"] for entry in meta.get("seeds", ())]
    return seed if seed in seeds else seeds[0] if seeds else None


def read_network(
    checkpoints: Checkpoints, step: int | None = None, label: str = "", seed: int | None = None
) -> tuple[Variables, dict]:
    """The trained network and the meta of a step; by default the newest good one.

    Args:
      checkpoints: of a phase.
      step: None for the newest good one.
      label: of a network that was trained beside it, by a member with that label or as "ema"; "" for it itself.
      seed: of several that were trained together; as `seed_in` takes it.

    Raises:
      InputError: no step is good, or there is no such network.
      StorageError: a step cannot be read.
    """
    if not label:
        network, meta = _read(checkpoints, "network", step, seed)
        return Variables(**network), meta
    training, meta = _read(checkpoints, "training", step, seed)
    beside = meta.get("networks", {})
    if label not in beside:
        message = f"no network {label!r} beside its own; known: {', '.join(beside) or 'none'}"
        raise InputError(f"{checkpoints.where(meta['step'])}: {message}")
    names = Variables(beside[label]["params"], beside[label]["stats"])
    return jax.tree.map(lambda name: training[name], names), meta


def read_method(checkpoints: Checkpoints, seed: int | None = None) -> Vars:
    """The method's own variables in the newest good step, as nested dicts, also where the method has tuples: names of
    fields and positions are keys then. Their policy is left out. seed: as `seed_in` takes it.

    Raises:
      InputError: no step is good.
      StorageError: a step cannot be read.
    """
    training, _ = _read(checkpoints, "training", None, seed)
    return Vars(_nested(training, "['method']['params']"), _nested(training, "['method']['stats']"), {})


def _read(checkpoints: Checkpoints, item: str, step: int | None, seed: int | None) -> tuple[dict, dict]:
    """An item of a step, of one seed, and the meta."""
    items, meta = checkpoints.read(item, step=step)
    chosen = seed_in(meta, seed)
    return items[item] if chosen is None else items[item][str(chosen)], meta


def flat(tree: PyTree) -> dict:
    """path -> leaf."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _nested(leaves: dict, below: str) -> dict:
    """What `flat` made of the tree below a path."""
    tree = {}
    for path, leaf in leaves.items():
        if path.startswith(below):
            *names, last = ["".join(step) for step in _STEP.findall(path.removeprefix(below))]
            node = tree
            for name in names:
                node = node.setdefault(name, {})
            node[last] = leaf
    return tree
