"""Checkpoints of one phase, by Orbax: named trees with a digest of their content.

Orbax commits a step atomically, but it loads a damaged file without a word. So each step carries the
digests of what was saved, and only a step whose content has them is a checkpoint.
"""

import hashlib
import json
from contextlib import contextmanager

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from kd_jax.distributed import processes
from kd_jax.storage import digests, files
from kd_jax.storage.files import StorageError
from kd_jax.storage.orbax_errors import DamagedError, diagnose, quiet
from kd_jax.storage.orbax_path import literal
from kd_jax.typing import InputError, PyTree, first_line

ITEMS = ("network", "training")


class Checkpoints:
    """The saved steps of one phase, under `folder`/checkpoints/<step>/.

    A step has items, which are trees of arrays (dicts, lists and tuples of them), and `meta`: JSON, with the digests.
    """

    def __init__(
        self, folder: epath.Path, *, keep: int | None = None, best: int = 0, read_only: bool = False, say=print
    ):
        """keep: how many of the last steps stay, None for all. best: how many stay besides, those
        saved with the highest score. say: prints a line."""
        policies = [ocp.checkpoint_managers.LatestN(n=keep)]
        if best:
            policies.append(
                ocp.checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics["score"], n=best, keep_checkpoints_without_metrics=False
                )
            )
        self._folder = folder
        self._say = say
        quiet()
        try:
            self._orbax = self._opened(policies, read_only)
        except OSError as e:
            raise StorageError(f"{folder}: its checkpoints cannot be opened ({e.strerror or first_line(e)})") from e

    def _opened(self, policies: list, read_only: bool) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            literal(self._folder / "checkpoints"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=not read_only,
            ),
            item_handlers={name: ocp.StandardCheckpointHandler() for name in ITEMS}
            | {"meta": ocp.JsonCheckpointHandler()},
        )

    def save(self, step: int, items: dict[str, PyTree], meta: dict, score: float | None = None) -> None:
        """Save a step. Returns once the values are copied; they are written while training goes on, one step at a
        time. Arrays are saved in the parts in which they lie, by the processes that hold them.

        Args:
          step: its number.
          items: name of ITEMS -> tree of arrays.
          meta: what JSON can hold.
          score: only a step with a score can be one of the best.

        Raises:
          StorageError: this step, or the one before it, could not be written.
        """
        items = jax.tree.map(_copy, items)  # the buffers are donated to the next step while these are written
        sums = {name: digests.digest(item) for name, item in items.items()}
        meta = {**meta, "step": step, "digest_kind": digests.KIND}
        meta["digests"] = {**sums, "meta": _meta_digest(meta)}
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        with self._saving():
            args = ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta))
            self._orbax.save(step, args=args, metrics=None if score is None else {"score": score})

    def wait(self) -> None:
        """Return when what was saved is on disk.

        Raises:
          StorageError: it could not be written.
        """
        with self._saving():
            self._orbax.wait_until_finished()

    @contextmanager
    def _saving(self):
        try:
            yield
        except Exception as e:  # tensorstore's errors have no common type
            why = f"cannot save a checkpoint ({first_line(e)}); those before it are kept"
            raise StorageError(f"{self._folder}: {why}") from e

    def steps(self) -> list[int]:
        """Committed steps, newest first, as process 0 sees them; whether they are good is not known yet."""
        return processes.from_main(lambda: sorted(self._orbax.all_steps(), reverse=True))

    def restore(self, like: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict] | None:
        """The newest good step as (items, meta), or None. Steps whose content is proven wrong are set aside.

        Args:
          like: name -> tree of ShapeDtypeStructs (with shardings) to restore into.

        Raises:
          InputError: a step holds trees of another structure.
          StorageError: a step cannot be read; nothing is moved.
        """
        for step in self.steps():
            try:
                return self._read(step, like)
            except DamagedError as e:
                self._set_aside(step, e)
        return None

    def read(self, *names: str, step: int | None = None) -> tuple[dict[str, PyTree], dict]:
        """Some items of a step as numpy arrays, and its meta. Changes nothing.

        Args:
          names: of the items; without any, only the meta is read.
          step: None for the newest good one.

        Raises:
          InputError: no step is good.
          StorageError: a step cannot be read.
        """
        for candidate in self.steps() if step is None else [step]:
            try:
                return self._read(candidate, dict.fromkeys(names))
            except DamagedError as e:
                self._say(f"{self.where(candidate)}: not usable, {first_line(e)}")
        raise InputError(f"{self._folder}: holds no checkpoint with a good digest")

    def metas(self) -> dict[int, dict]:
        """step -> meta, of the steps whose meta is whole; newest first."""
        metas = {}
        for step in self.steps():
            try:
                metas[step] = self._read(step, {})[1]
            except DamagedError as e:
                self._say(f"{self.where(step)}: not usable, {first_line(e)}")
        return metas

    def good(self, step: int) -> dict | None:
        """The meta of a step if it is there and all its content is what was saved, else None.

        Raises:
          StorageError: it cannot be read.
        """
        if step not in self.steps():
            return None
        try:
            return self._read(step, None)[1]
        except DamagedError:
            return None

    def close(self) -> None:
        self._orbax.close()

    def where(self, step: int) -> epath.Path:
        """The folder of a step."""
        return self._folder / "checkpoints" / str(step)

    def _read(self, step: int, like: dict[str, PyTree | None] | None) -> tuple[dict[str, PyTree], dict]:
        """A step that has its digests. like: None for all items; of a name None for whatever tree is there. Where
        nothing says how, items are numpy arrays."""
        items, meta, problem = {}, {}, None
        try:
            meta = self._meta(step)
            if like is None:
                like = {name: None for name in meta["digests"] if name != "meta"}
            items = self._items(step, like, meta) if like else {}
        except Exception as e:  # Orbax raises anything from ValueError to bare Exception here
            problem = diagnose(e, self.where(step))
        self._raise_together(step, problem)
        digest = digests.OF_KIND[meta.get("digest_kind", 1)]
        for name, item in items.items():
            if digest(item) != meta["digests"][name]:
                raise DamagedError(f"the digest of its {name} does not match")
        return items, meta

    def _meta(self, step: int) -> dict:
        meta = self._orbax.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        if not isinstance(meta, dict) or not isinstance(meta.get("digests"), dict):
            raise DamagedError("its meta holds no digest")
        if meta["digests"].get("meta", _meta_digest(meta)) != _meta_digest(meta):  # older ones have none
            raise DamagedError("the digest of its meta does not match")
        if meta.get("digest_kind", 1) not in digests.OF_KIND:
            raise InputError(f"{self.where(step)}: was saved by a newer version of kd_jax; go on with that one")
        return meta

    def _items(self, step: int, like: dict[str, PyTree | None], meta: dict) -> dict[str, PyTree]:
        absent = like.keys() - meta["digests"].keys()
        if absent:
            raise InputError(f"{self.where(step)}: holds {', '.join(meta['digests'])}, but no {', '.join(absent)}")
        args = {}
        for name, tree in like.items():
            shapes = ocp.StandardCheckpointHandler().metadata(literal(self.where(step)) / name).tree
            if tree is None:  # arrays of no memory, which only say "numpy"
                tree = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), shapes)
            else:
                self._check_structure(step, name, tree, shapes)
            args[name] = ocp.args.StandardRestore(tree)
        items = self._orbax.restore(step, args=ocp.args.Composite(**args))
        return {name: items[name] for name in like}

    def _check_structure(self, step: int, name: str, wanted: PyTree, there: PyTree) -> None:
        wanted, there = _shapes(wanted), _shapes(there)
        for path in sorted({*wanted, *there}):
            if wanted.get(path) != there.get(path):
                raise InputError(
                    f"{self.where(step)}: its {name}{path} is {there.get(path, 'absent')}, but this run has "
                    f"{wanted.get(path, 'none')}; was it saved by another version? go on with that one, or start "
                    "afresh with --overwrite"
                )

    def _raise_together(self, step: int, problem: Exception | None) -> None:
        """All processes go on, set the step aside, or stop: none must wait for another one that has stopped."""
        rank = 0 if problem is None else 1 if isinstance(problem, DamagedError) else 2
        (worst,) = processes.all_max(rank)
        if rank == worst > 0:
            raise problem
        if worst:
            kind = DamagedError if worst == 1 else StorageError
            raise kind(f"{self.where(step)}: another process cannot read it; its message says why")

    def _set_aside(self, step: int, error: Exception) -> None:
        target = self._folder / "damaged" / str(step)

        def move() -> None:
            if target.exists():
                target.rmtree()
            files.move(self.where(step), target)

        processes.on_main(move)
        self._orbax.reload()
        self._say(f"{self.where(step)}: damaged ({first_line(error)}; digest not confirmed), moved to {target}")


def _copy(leaf):
    """The leaf in a buffer of its own, in the same parts."""
    if isinstance(leaf, jax.Array):
        return jax.device_put(leaf, leaf.sharding, may_alias=False)
    return np.array(leaf)


def _meta_digest(meta: dict) -> str:
    """sha256 of all that a meta says beside its digests."""
    plain = json.loads(json.dumps({key: value for key, value in meta.items() if key != "digests"}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _shapes(tree: PyTree) -> dict[str, str]:
    """path -> type and shape."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}" for path, leaf in leaves}
