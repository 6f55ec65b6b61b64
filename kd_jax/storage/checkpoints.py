"""Checkpoints of one phase, by Orbax, with a digest of their content.

Orbax commits a step atomically, but it loads a damaged file without a word. So each step carries the
digest of what was saved, and only a step whose content has that digest is a checkpoint.
"""

import hashlib
import logging
import re
from contextlib import contextmanager

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from kd_jax.distributed import processes
from kd_jax.engine.state import TrainState
from kd_jax.storage import files
from kd_jax.typing import InputError, PyTree, Variables, Vars, first_line

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every save at INFO
# and leaves failed reads as unretrieved tasks, whose tracebacks would bury the one line that we print
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


class StorageError(OSError):
    """A checkpoint could not be written. Those written before are intact."""


def digest(tree: PyTree) -> str:
    """sha256 of a tree's paths, types, shapes and values."""
    whole = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        whole.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def network_digest(variables: Variables) -> str:
    """The digest that a network's weights have in a checkpoint."""
    return digest(_network(variables))


class Checkpoints:
    """The saved steps of one phase, under `folder`/checkpoints/<step>/.

    A step has three items: `network` (parameters and statistics of the trained net, all that a
    later phase needs of it), `training` (everything else) and `meta` (JSON, with the digests).
    """

    def __init__(
        self, folder: epath.Path, *, keep: int | None = None, best: int = 0, read_only: bool = False, say=print,
        whole=jax.device_get,
    ):  # fmt: skip
        """keep: how many of the last steps stay, None for all. best: how many stay besides, those
        saved with the highest score. say: prints a line. whole: brings what lives on devices to the host."""
        policies = [ocp.checkpoint_managers.LatestN(n=keep)]
        if best:
            policies.append(
                ocp.checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics["score"], n=best, keep_checkpoints_without_metrics=False
                )
            )
        self._folder = folder
        self._whole = whole
        self._say = say
        self._orbax = ocp.CheckpointManager(
            folder / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=not read_only,
            ),
            item_names=("network", "training", "meta"),
        )

    def save(self, state: TrainState, extra: PyTree, meta: dict, score: float | None = None) -> None:
        """Save at state.step; `extra` is what the loop carries beside the state. Returns once the
        values are copied; they are written while training goes on, one step at a time. Only a step
        with a score can be one of the best.

        Raises:
          StorageError: this step, or the one before it, could not be written.
        """
        network, training = _split(state, extra)
        self._write(int(state.step), {"network": network, "training": training}, meta, score)

    def save_network(self, variables: Variables, meta: dict) -> None:
        """Save a network that others trained, as step 0; errors as for `save`."""
        self._write(0, {"network": _network(variables)}, meta)

    def _write(self, step: int, items: dict, meta: dict, score: float | None = None) -> None:
        # copies: the state's buffers are donated to the next step while these are written
        items = jax.tree.map(np.array, self._whole(items))
        meta = {**meta, "step": step, "digests": {name: digest(item) for name, item in items.items()}}
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        with self._storage_errors():
            args = ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta))
            self._orbax.save(step, args=args, metrics=None if score is None else {"score": score})

    def wait(self) -> None:
        """Return when what was saved is on disk.

        Raises:
          StorageError: it could not be written.
        """
        with self._storage_errors():
            self._orbax.wait_until_finished()

    @contextmanager
    def _storage_errors(self):
        try:
            yield
        except Exception as e:  # tensorstore's errors have no common type
            why = f"cannot save a checkpoint ({first_line(e)}); those before it are kept"
            raise StorageError(f"{self._folder}: {why}") from e

    def steps(self) -> list[int]:
        """Committed steps, newest first; whether they are good is not known yet."""
        return sorted(self._orbax.all_steps(), reverse=True)

    def restore(self, like: TrainState, extra: PyTree) -> tuple[TrainState, PyTree, dict] | None:
        """The newest good step as (state, extra, meta), or None. Damaged ones are set aside.

        Args:
          like: state of ShapeDtypeStructs (with shardings) to restore into.
          extra: the same for what the loop carries beside the state.
        """
        network, training = _split(like, extra)
        for step in self.steps():
            try:
                found = self._read(step, network=network, training=training)
            except Exception as e:  # Orbax raises anything from ValueError to bare Exception here
                processes.check_others()
                self._set_aside(step, e)
                continue
            return *_join(like, extra, found), found["meta"]
        return None

    def is_good(self, step: int) -> bool:
        """Whether a step is there and its content is what was saved."""
        try:
            self._read(step, network=None, training=None)
        except Exception:
            return False
        return True

    def network(self, step: int | None = None, label: str = "") -> tuple[Variables, dict]:
        """The trained network and the meta of a step; by default the newest good one.

        Args:
          step: None for the newest good one.
          label: of a network that was trained beside it, by a member with that label or as "ema"; "" for it itself.

        Raises:
          InputError: no step is good, or there is no such network.
        """
        item = "training" if label else "network"
        found = self._newest(item, step)
        if not label:
            return Variables(found[item]["params"], found[item]["stats"]), found["meta"]
        known = found["meta"].get("networks", {})
        if label not in known:
            raise InputError(
                f"{self._folder}: no network {label!r} beside its own; known: {', '.join(known) or 'none'}"
            )
        places = Variables(known[label]["params"], known[label]["stats"])
        return jax.tree.map(lambda name: found[item][name], places), found["meta"]

    def method(self) -> Vars:
        """The method's own variables in the newest good step; their policy is left out.

        Raises:
          InputError: no step is good.
        """
        found = self._newest("training")["training"]
        return Vars(_nested(found, "['method']['params']"), _nested(found, "['method']['stats']"), {})

    def _newest(self, item: str, step: int | None = None) -> dict:
        for candidate in self.steps() if step is None else [step]:
            try:
                return self._read(candidate, **{item: None})
            except Exception as e:
                self._say(f"{self._where(candidate)}: not usable, {first_line(e)}")
        raise InputError(f"{self._folder}: holds no checkpoint with a good digest")

    def close(self) -> None:
        self._orbax.close()

    def _read(self, step: int, **items) -> dict:
        args = {name: ocp.args.StandardRestore(like) for name, like in items.items()}
        found = self._orbax.restore(step, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore()))
        for name in items:
            if digest(self._whole(found[name])) != found["meta"]["digests"][name]:
                raise ValueError(f"the digest of its {name} does not match")
        return found

    def _where(self, step: int) -> epath.Path:
        return self._folder / "checkpoints" / str(step)

    def _set_aside(self, step: int, error: Exception) -> None:
        target = self._folder / "damaged" / str(step)

        def move() -> None:
            if target.exists():
                target.rmtree()
            files.move(self._where(step), target)

        processes.on_main(move)
        self._orbax.reload()
        self._say(f"{self._where(step)}: damaged ({first_line(error)}; digest not confirmed), moved to {target}")


def _rest(state: TrainState, extra: PyTree) -> dict:
    """What is saved beside the network."""
    own = {"params": state.params["method"], "stats": state.stats["method"]}
    parts = {"opt": state.opt, "policy": state.policy, "policy_opt": state.policy_opt, "ema": state.ema}
    return {"method": own, **parts, "extra": extra}


def names(state: TrainState, tree: PyTree) -> PyTree:
    """In place of values of the state's method or average, their names in the item `training`."""
    known = {id(x): jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(_rest(state, ()))}
    return jax.tree.map(lambda x: known[id(x)], tree)


def _flat(tree: PyTree) -> dict:
    """path -> leaf: optax's tuples need no description on disk."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _nested(flat: dict, at: str) -> dict:
    """What `_flat` made of the dicts below a path."""
    tree = {}
    for path, leaf in flat.items():
        if path.startswith(at):
            *names, last = re.findall(r"\['(.*?)'\]", path.removeprefix(at))
            node = tree
            for name in names:
                node = node.setdefault(name, {})
            node[last] = leaf
    return tree


def _split(state: TrainState, extra: PyTree) -> tuple[dict, dict]:
    """The items `network` and `training`."""
    return _network(state.student), _flat(_rest(state, extra))


def _network(variables: Variables) -> dict:
    """The item `network`."""
    return {"params": variables.params, "stats": variables.stats}


def _join(like: TrainState, extra: PyTree, found: dict) -> tuple[TrainState, PyTree]:
    """The inverse of `_split`, with the structure of `like` and `extra`."""
    rest = jax.tree_util.tree_map_with_path(
        lambda path, _: found["training"][jax.tree_util.keystr(path)], _rest(like, extra)
    )
    network = found["network"]
    state = TrainState(
        step=jax.device_put(np.int32(found["meta"]["step"]), like.step.sharding),
        params={"student": network["params"], "method": rest["method"]["params"]},
        stats={"student": network["stats"], "method": rest["method"]["stats"]},
        opt=rest["opt"],
        policy=rest["policy"],
        policy_opt=rest["policy_opt"],
        ema=rest["ema"],
    )
    return state, rest["extra"]
