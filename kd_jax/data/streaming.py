"""Batches of sets that do not fit in memory, in the order of `resident`. A batch is a function of (data seed, step), so
that a run keeps no state of its stream. grain computes batches ahead, in processes of its own."""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kd_jax.data import augment as aug
from kd_jax.data import resident
from kd_jax.data.randaugment import strong_views
from kd_jax.data.resident import Split
from kd_jax.data.sources import Arrays
from kd_jax.typing import Array, Batch, InputError

# image (R, H, W, C) uint8, index, mask and, if there are any, label, each (R,), of the R rows of a process
HostBatch = dict[str, np.ndarray]


class TrainPlan(NamedTuple):
    """What training step `step` reads. n: examples of the set; the rest as in `resident.train_index`."""

    seed: int
    n: int
    batch_size: int
    split: Split | None = None
    held_out: bool = False

    def __call__(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Epoch, indices (B,), mask (B,)."""
        epoch, index = resident.train_index(
            self.seed, step, n=self.n, batch_size=self.batch_size, split=self.split, held_out=self.held_out
        )
        return epoch, index, np.ones(len(index), np.float32)


class EvalPlan(NamedTuple):
    """What batch `step` of the test set reads, in order. The batch after the last one is the first one again."""

    n: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Batches of one pass over the test set; the last one is filled up and masked."""
        return -(-self.n // self.batch_size)

    def __call__(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Epoch 0, indices (B,), mask (B,)."""
        return 0, *resident.test_index(step % self.steps, n=self.n, batch_size=self.batch_size)


class Share(NamedTuple):
    """The part of every batch that one process of several reads: rows [p B / P, (p + 1) B / P)."""

    process: int = 0
    processes: int = 1

    def rows(self, batch_size: int) -> slice:
        """Raises InputError where the rows cannot be shared out evenly."""
        if batch_size % self.processes:
            raise InputError(f"batch_size: {batch_size} rows for {self.processes} processes; accepted: a multiple")
        each = batch_size // self.processes
        return slice(self.process * each, (self.process + 1) * each)


ALONE = Share()


class Stream:
    """The batches of steps in order, computed ahead. The user closes it, or a `with` statement does."""

    def __init__(
        self,
        source: Any,
        plan: Callable[[int], tuple[int, np.ndarray, np.ndarray]],
        *,
        steps: range | None = None,
        seed: int = 0,
        share: Share = ALONE,
        workers: int = 0,
        ahead: int = 2,
    ):
        """Nothing is read before the first batch is asked for.

        Args:
          source: len, `view(i, seed, epoch) -> (pixels (H, W, C) uint8, label or None)`, shape (H, W, C); picklable.
            See `unloaded.Part` and `InMemory`.
          plan: TrainPlan or EvalPlan.
          steps: which, in this order; None for all from 0. Its stride skips steps that nobody reads.
          seed: the data seed, for augmentation on the host.
          share: which rows of a batch this process reads.
          workers: processes that compute batches; 0 computes them in a thread of this process.
          ahead: batches computed ahead by each worker, at least 1.
        """
        if workers < 0 or ahead < 1:
            raise InputError(f"workers={workers}, ahead={ahead}; accepted: at least 0 and at least 1")
        self._steps = range(sys.maxsize) if steps is None else steps
        self._batches = _Batches(source, plan, self._steps, share.rows(plan.batch_size), seed)
        self._workers, self._ahead = workers, ahead
        self._iterator, self._next = None, 0
        self._latest = deque(maxlen=2)  # (step, batch)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def __iter__(self) -> Iterator[HostBatch]:
        """From the first step on."""
        return (self.at(step) for step in self._steps)

    def at(self, step: int) -> HostBatch:
        """The batch of a step. The next step in order is computed already, and the last two batches are kept; any other
        step makes the stream start anew from there.

        Raises:
          InputError: a damaged example; it names the record or file.
        """
        for latest, batch in self._latest:
            if latest == step:
                return batch
        position = self._steps.index(step)
        if self._iterator is None or position != self._next:
            self.close()
            self._iterator, self._next = iter(self._pipeline(position)), position
        try:
            batch = next(self._iterator)
        except BaseException:
            self.close()
            raise
        self._next += 1
        self._latest.append((step, batch))
        return batch

    def close(self) -> None:
        """End the workers; a later `at` starts others."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None
        self._latest.clear()

    def _pipeline(self, position: int):
        import grain

        batches = grain.MapDataset.source(replace(self._batches, steps=self._steps[position:]))
        if not self._workers:
            return batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._ahead))
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain reads its own flags, which only launch/ parses
            flags.FLAGS.mark_as_parsed()
        # a worker computes every workers-th batch as a whole, so that their number changes nothing
        ahead = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=self._ahead)
        at_once = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        shared = grain.experimental.DatasetOptions(min_shm_size=self._shared_from())
        dataset = grain.experimental.WithOptionsIterDataset(batches.to_iter_dataset(at_once), shared)
        return dataset.mp_prefetch(ahead, worker_init_fn=_live_with_parent)

    def _shared_from(self) -> int:
        """Arrays of at least so many bytes, the images, come through shared memory; smaller ones come through a pipe.
        Where shared memory has little room, as in many containers, all come through the pipe: the system kills a worker
        that fills it up."""
        rows = self._batches.rows.stop - self._batches.rows.start
        waiting = self._workers * (self._ahead + 1) + 4  # batches, of which four are on their way to the devices
        try:
            room = os.statvfs("/dev/shm")
        except OSError:  # a system that keeps it elsewhere
            return 2**16
        fits = 2 * waiting * rows * math.prod(self._batches.source.shape) < room.f_bavail * room.f_frsize
        return 2**16 if fits else sys.maxsize


def train_batch(batch: Batch, epoch: Array, key: Array, *, augment: str, changes: tuple[Callable, ...] = ()) -> Batch:
    """What `resident.train_batch` makes of the same examples, bit by bit. Pure, for the device.

    Args:
      batch: a HostBatch of whole images.
      epoch: () int32; see `TrainPlan`.
      key: see `augment.root_key`.
      augment: one of augment.AUGMENTS; "none" where the host has augmented.
      changes: as there.

    Returns:
      The batch record; images in [0, 1].
    """
    batch = test_batch(batch)
    pad = aug.padding(batch["image"].shape[1])
    image = aug.augmented(batch["image"], key, epoch, batch["index"], augment=augment, pad=pad)
    return resident.changed({**batch, "image": image}, key, epoch, changes)


def strong_image(batch: Batch, epoch: Array, key: Array, *, augment: str, ops: int, magnitude: int) -> Array:
    """What `resident.strong_image` makes of the same examples, bit by bit. Arguments as for `train_batch`.

    Differs: where the host crops, RandAugment changes the crop of the usual view. With whole images the two views are
      cropped independently, as published.
    """
    image, index = test_batch(batch)["image"], batch["index"]
    pad = aug.padding(image.shape[1])
    return strong_views(image, key, epoch, index, augment=augment, pad=pad, ops=ops, magnitude=magnitude)


def test_batch(batch: Batch) -> Batch:
    """The batch record of a HostBatch. Pure, for the device."""
    return {**batch, "image": whole_images(batch["image"])}


def whole_images(pixels: Array) -> Array:
    """Pixels (B, H, W, C) uint8 as images in [0, 1]. Pure, for the device."""
    return pixels.astype(jnp.float32) / 255


@dataclass(frozen=True)
class InMemory:
    """Arrays as a source of streams: unaugmented pixels, which the device augments."""

    arrays: Arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def view(self, i: int, seed: int, epoch: int) -> tuple[np.ndarray, int | None]:
        """Pixels and label of an example."""
        example = self.arrays[i]
        return example["image"], example.get("label")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.arrays.shape


@dataclass(frozen=True)
class _Batches:
    """Batches by position, as grain reads them."""

    source: Any
    plan: Callable
    steps: range
    rows: slice
    seed: int

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: int) -> HostBatch:
        epoch, index, mask = self.plan(self.steps[position])
        index, mask = index[self.rows], mask[self.rows]
        image = np.empty((len(index), *self.source.shape), np.uint8)
        labels = []
        for row, i in enumerate(index.tolist()):
            if row and i == index[row - 1]:  # the last test batch is filled up with its last example
                image[row], label = image[row - 1], labels[-1]
            else:
                image[row], label = self.source.view(i, self.seed, epoch)
            labels.append(label)
        batch = {"image": image, "index": index, "mask": mask}
        return batch if None in labels else {**batch, "label": np.array(labels, np.int32)}


def _live_with_parent(worker: int, workers: int) -> None:
    """End a worker when its stream is closed or its parent is gone. It ignores the signals that ask a run to save and
    end: they go to the whole process group, and the parent needs batches up to the next step boundary."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
