"""Teachers whose logits are kept by (example, view), and read in place of running them again.

The view of an example in an epoch is a function of (data seed, epoch, example), and the teacher's logits are one of the
view: under crop and flip at 32 x 32 there are 162 of them. What is read is bit for bit what the teacher would return:
the same compiled program computes it, on batches of the size that the run trains with, and a row of its result depends
neither on the other rows nor on its place among them (on a CPU; it does depend on the size of the batch).

Whatever else decides on the bits is in the key of a store: the teacher's weights and its program, the data, the views,
the batch, the compiler, the device. Another teacher, transform or data set has another store.
"""

import hashlib
import json
from functools import partial

import numpy as np
from etils import epath

from kd_jax import config
from kd_jax.plan import PhasePlan
from kd_jax.storage.logit_rows import LogitRows, folder_of, write_header
from kd_jax.storage.workdir import resolve_path
from kd_jax.train import machine
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.cache_size import check_room, store_size
from kd_jax.train.compiled import Teachers
from kd_jax.train.rows_ahead import RowsAhead
from kd_jax.typing import Array, Batch, Outputs, Variables

FORMAT = 1  # of a store


class CachedTeachers:
    """Stands in for `Teachers` in a phase: the teachers that can be cached are, the others run."""

    def __init__(self, folder: epath.Path, teach: Teachers, stores: dict[int, "TeacherStore"]):
        """folder: of all stores. teach: runs the teachers. stores: of those that are cached, by the number of the
        teacher."""
        self.folder, self.stores, self._teach = folder, stores, teach

    def train(self, step: int, teachers: tuple[Variables, ...], batch: Batch) -> tuple[Outputs, ...]:
        """The outputs of every teacher for the batch of a training step. Arguments as for `Teachers`."""
        return tuple(
            self.stores[i].train(step) if i in self.stores else self._teach.of(i, variables, batch)
            for i, variables in enumerate(teachers)
        )

    def __call__(self, teachers: tuple[Variables | None, ...], batch: Batch, split: str) -> tuple[Outputs, ...]:
        """The same for a batch of the test split."""
        return tuple(
            self.stores[i].test(batch) if i in self.stores else self._teach.of(i, variables, batch, split)
            for i, variables in enumerate(teachers)
        )

    def counts_since(self, earlier: dict[str, int]) -> dict[str, int]:
        """Rows that were there ("hits") and rows that the teachers computed ("misses"), training and test, in all.

        Args:
          earlier: the same of the process that this one goes on for; {} where there was none.
        """
        counts = [earlier, *(store.counts for store in self.stores.values())]
        return {name: sum(count.get(name, 0) for count in counts) for name in ("hits", "misses")}

    def summary(self, counts: dict[str, int]) -> dict:
        """The entry of summary.json. counts: of the whole phase."""
        return {"dir": str(self.folder), **counts, "bytes": sum(store.bytes for store in self.stores.values())}

    def close(self) -> None:
        """Close all files."""
        for store in self.stores.values():
            store.close()


class TeacherStore:
    """What is kept of one teacher, and how it is computed.

    rows: those of the training set, of example i and view v the row i * views + v. tests: those of the test set.
    """

    def __init__(
        self, plan: PhasePlan, seat: int, teach: Teachers, variables: Variables, source: Resident | Streamed,
        folder: epath.Path, key: dict,
    ):  # fmt: skip
        """seat: the number of the teacher. folder, key: of the store."""
        self.folder, self._layout, self._source, self._views = folder, plan.layout, source, source.num_views
        self._run, size = partial(teach.of, seat, variables), {"columns": plan.network.num_classes}
        self.rows = LogitRows(folder, "train", key=key, count=source.sizes["train"] * source.num_views, **size)
        self.tests = LogitRows(folder, "test", key=key, count=source.sizes["test"], **size)
        self._batch_size = plan.phase.batch_size
        self._ahead = RowsAhead(
            self.rows, self.numbers_of, self.compute, batch_size=self._batch_size, last=plan.steps
        )  # fmt: skip
        self._test_counts = {"hits": 0, "misses": 0}

    def numbers_of(self, step: int) -> np.ndarray:
        """The numbers (B,) of the rows that a training step reads."""
        index, view = self._source.train_views(step, self._batch_size)
        return index.astype(np.int64) * self._views + view

    def compute(self, numbers: np.ndarray) -> Array:
        """The logits (B, K) of rows of the training set: by the live teacher, on the devices."""
        index, view = (part.astype(np.int32) for part in np.divmod(numbers, self._views))
        image = self._source.images_in(index, view)
        return self._run({"image": image, "index": self._layout.put(index, "b")}).logits

    def count_equal(self, numbers: np.ndarray) -> int:
        """How many rows of these numbers, at most a batch, are what the teacher says now, bit by bit."""
        if not len(numbers):
            return 0
        logits = self.compute(np.pad(numbers, (0, self._batch_size - len(numbers)), mode="edge"))
        live = np.asarray(logits)[: len(numbers)].astype(self.rows.dtype)
        rows, there = self.rows.read(numbers)
        return int(np.sum(there & (rows.view(np.uint8) == live.view(np.uint8)).all(axis=1)))

    def fill(self, step: int) -> None:
        """Compute what a training step lacks."""
        self._ahead.at(step)

    def train(self, step: int) -> Outputs:
        """What the teacher says of the batch of a training step."""
        return self._outputs(self._ahead.at(step))

    def test(self, batch: Batch) -> Outputs:
        """The same of a batch of the test set; the batch is computed where a row of it is missing."""
        numbers, counted = np.asarray(batch["index"]), np.asarray(batch["mask"]) > 0
        rows, there = self.tests.read(numbers)
        self._test_counts["hits"] += int(np.sum(there & counted))
        self._test_counts["misses"] += int(np.sum(~there & counted))
        if not there.all():
            rows = np.asarray(self._run(batch, "test").logits).astype(self.tests.dtype)
            self.tests.write(numbers[~there], rows[~there])
        return self._outputs(rows.astype(np.float32))

    @property
    def counts(self) -> dict[str, int]:
        """{"hits", "misses"}."""
        ahead = {"hits": self._ahead.hits, "misses": self._ahead.misses}
        return {name: count + self._test_counts[name] for name, count in ahead.items()}

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        return self.rows.bytes + self.tests.bytes

    def close(self) -> None:
        """Close both files."""
        self.rows.close()
        self.tests.close()

    def _outputs(self, rows: np.ndarray) -> Outputs:
        return Outputs((), None, None, self._layout.put(rows, "b"))


def open_cache(
    recipe: config.Recipe, plan: PhasePlan, teach: Teachers, teachers: tuple[Variables | None, ...],
    digests: tuple[str, ...], source: Resident | Streamed, data_identity: dict,
) -> CachedTeachers | None:  # fmt: skip
    """The cache that a phase trains with; None where it is off, or where no teacher of the phase can be cached.

    Args:
      recipe, plan: of the phase.
      teach, teachers: its teachers.
      digests: of them.
      source: of the batches.
      data_identity: `Dataset.identity`.

    Raises:
      InputError: the disk is too small for what the phase will add.
      StorageError: it cannot be written.
    """
    if not recipe.teacher_cache or not plan.cacheable_teachers:
        return None
    stores, cache = {}, resolve_path(recipe.teacher_cache)
    for seat in plan.cacheable_teachers:
        name = plan.teachers[seat].network.name
        key = key_of(recipe, plan, seat, teach, teachers[seat], digests[seat], source, data_identity)
        folder = folder_of(cache, name, key)
        stores[seat] = store = TeacherStore(plan, seat, teach, teachers[seat], source, folder, key)
        about = {"teacher": {"name": name, "digest": digests[seat]}, "columns": plan.network.num_classes}
        write_header(folder, {**about, "rows": {"train": store.rows.count, "test": store.tests.count}, "key": key})
    opened = CachedTeachers(cache, teach, stores)
    size = store_size(recipe, source, plan.network.num_classes, plan.steps / plan.steps_per_epoch)
    check_room(recipe, size * len(stores), sum(min(size, store.bytes) for store in stores.values()))
    return opened


def key_of(
    recipe: config.Recipe, plan: PhasePlan, seat: int, teach: Teachers, variables: Variables, digest: str,
    source: Resident | Streamed, data_identity: dict,
) -> dict:  # fmt: skip
    """All that decides on the bits of a store, as JSON has it. Arguments as for `open_cache`, of one teacher."""
    part = {"subset": recipe.data.subset, "seed": recipe.data_seed} if recipe.data.subset else None
    views = {"augment": source.augment, "pad": source.pad, "count": source.num_views}
    return {
        "format": FORMAT,
        "teacher": digest,
        "program": teach.program_digest(seat, variables, plan.phase.batch_size),  # network, normalisation, precision
        "data": _sha256(json.dumps(data_identity, sort_keys=True)),
        "subset": part,
        "views": {**views, "program": source.views_digest(plan.phase.batch_size)},
        "batch": [plan.phase.batch_size, plan.layout.count],
        "dtype": recipe.teacher_cache_dtype,
        "machine": machine.compiler(),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
