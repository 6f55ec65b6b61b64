"""A TrainState, and what the loop carries beside it, as the plain trees that a checkpoint holds."""

import jax
import numpy as np

from kd_jax.distributed import processes
from kd_jax.engine.state import TrainState
from kd_jax.storage.networks import flat, network_item
from kd_jax.typing import PyTree


def split(state: TrainState, extra: PyTree) -> dict[str, PyTree]:
    """The items of a checkpoint: `network`, all that a later phase needs of the student, and `training`, the rest.

    Args:
      state: of arrays, or of shapes for a restore.
      extra: what the loop carries beside it, likewise.
    """
    return {"network": network_item(state.student), "training": flat(_rest(state, extra))}


def split_seeds(seeds: tuple[int, ...], states: tuple[TrainState, ...], extras: tuple) -> dict[str, PyTree]:
    """The items of the states of several seeds: in each, under a seed's number, what `split` makes; of one seed, just
    that."""
    items = [split(state, extra) for state, extra in zip(states, extras, strict=True)]
    if len(seeds) == 1:
        return items[0]
    return {name: {str(s): parts[name] for s, parts in zip(seeds, items, strict=True)} for name in items[0]}


def of_seed(items: dict[str, PyTree], seeds: tuple[int, ...], seed: int) -> dict[str, PyTree]:
    """What `split` made of the state of one of the seeds."""
    return items if len(seeds) == 1 else {name: item[str(seed)] for name, item in items.items()}


def join(like: TrainState, extra: PyTree, items: dict[str, PyTree], step: int) -> tuple[TrainState, PyTree]:
    """The inverse of `split`: (state, extra) with the structure of `like` and `extra`, of which `split` made what the
    items were restored into."""
    training, network = items["training"], items["network"]
    rest = jax.tree_util.tree_map_with_path(lambda path, _: training[jax.tree_util.keystr(path)], _rest(like, extra))
    state = TrainState(
        step=jax.device_put(np.int32(step), like.step.sharding),
        params={"student": network["params"], "method": rest["method"]["params"]},
        stats={"student": network["stats"], "method": rest["method"]["stats"]},
        opt=rest["opt"],
        policy=rest["policy"],
        policy_opt=rest["policy_opt"],
        ema=rest["ema"],
    )
    return state, rest["extra"]


def names(state: TrainState, tree: PyTree) -> PyTree:
    """In place of values of the state's method or average, their names in the item `training`."""
    paths = {id(leaf): path for path, leaf in flat(_rest(state, ())).items()}
    return jax.tree.map(lambda x: paths[id(x)], tree)


def is_finite(tree: PyTree) -> bool:
    """Whether every value is finite; every process looks at what its devices hold, and all get the same answer."""
    leaves = (x.addressable_shards if isinstance(x, jax.Array) else () for x in jax.tree.leaves(tree))
    finite = all(np.isfinite(s.data).all() for shards in leaves for s in shards if s.replica_id == 0)
    (bad,) = processes.all_max(int(not finite))
    return not bad


def _rest(state: TrainState, extra: PyTree) -> dict:
    """What is saved beside the network."""
    method = {"params": state.params["method"], "stats": state.stats["method"]}
    parts = {"opt": state.opt, "policy": state.policy, "policy_opt": state.policy_opt, "ema": state.ema}
    return {"method": method, **parts, "extra": extra}
