"""What a run reads its batches from: a data set on the devices, or one that streams from its files. Both give the same
batches for the same seed, bit by bit, but for what `data.crop` crops on the host."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from kd_jax import config
from kd_jax.data import Arrays, Dataset, erasing, mixing, resident, streaming
from kd_jax.data import augment as aug
from kd_jax.data.augment import root_key
from kd_jax.data.resident import Split
from kd_jax.data.streaming import EvalPlan, InMemory, Share, Stream, TrainPlan
from kd_jax.distributed.mesh import Layout
from kd_jax.typing import Array, Batch, InputError

FLIGHT = 2  # batches that a stream lets the devices fall behind, each in their memory


class _Batches:
    """A data set, the devices that it is for, the seed that orders and augments it, and how its images are erased and
    mixed, in that order, as DeiT does. A context manager closes it."""

    def __init__(
        self, layout: Layout, dataset: Dataset, *, seed: int, augment: str, mix: config.Mix | None = None,
        erase: config.Erase | None = None,
    ):  # fmt: skip
        self.layout, self.seed = layout, seed
        self.augment = dataset.augment if augment == "auto" else augment
        self.sizes, self.image_shape = {"train": len(dataset.train), "test": len(dataset.test)}, dataset.train.shape
        self.key = layout.put(root_key(seed))
        how = {"augment": self.augment, "pad": self.pad}
        self._all_view_ids = layout.jit(partial(aug.view_ids, **how), ins="rrr", outs="r")
        self._crop = layout.jit(partial(aug.views, **how), ins="bb", outs="b")
        self._view_ids = lru_cache(maxsize=2)(self._view_ids_of)
        changes = []
        if erase and erase.probability:
            changes.append(partial(erasing.erased, mean=dataset.mean, std=dataset.std, **vars(erase)))
        if mix and mix.is_on:
            changes.append(partial(mixing.mixed, num_classes=dataset.train.num_classes, **vars(mix)))
        self._how = {"augment": self.augment, "changes": tuple(changes)}

    @property
    def pad(self) -> int:
        """Pixels of padding around an image that is cropped."""
        return aug.padding(self.image_shape[0])

    @property
    def num_views(self) -> int:
        """How many views of an image there are in training."""
        return aug.num_views(self.augment, self.pad)

    def train(
        self,
        step: int,
        batch_size: int,
        split: Split | None = None,
        held_out: bool = False,
        extra_views: tuple[str, ...] = (),
    ) -> Batch:
        """The batch of a training step: a function of (seed, step) and, while a search holds out, of that.

        Args:
          step: counted from 0.
          batch_size: B.
          split: what a search holds out, and how long.
          held_out: whether the batch is of the held-out examples.
          extra_views: what `views` holds beside: "strong", the images a second time, augmented more strongly.

        Differs: see `streaming.strong_image`, of images that the host has cropped.
        """
        return self._batch(TrainPlan(self.seed, self.sizes["train"], batch_size, split, held_out), step, extra_views)

    def train_views(self, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Which examples (B,) a training step reads, and which view of each (B,), where no search holds any out."""
        epoch, index = resident.train_index(self.seed, step, n=self.sizes["train"], batch_size=batch_size)
        return index, self._view_ids(epoch)[index]

    def images_in(self, index: np.ndarray, view: np.ndarray) -> Array:
        """Training images (B, H, W, C) in [0, 1] in the views of these numbers: bit by bit those of a batch."""
        return self._crop(self._whole(index), self.layout.put(view, "b"))

    def views_digest(self, batch_size: int) -> str:
        """sha256 of the program that makes the views of a batch."""
        image = jax.ShapeDtypeStruct((batch_size, *self.image_shape), np.float32)
        lowered = self._crop.lower(image, jax.ShapeDtypeStruct((batch_size,), np.int32))
        return hashlib.sha256(lowered.as_text().encode()).hexdigest()

    def whole_images_in(self, index: np.ndarray) -> Array:
        """Training images (B, H, W, C) in [0, 1] before any augmentation."""
        return self._whole(index)

    def _view_ids_of(self, epoch: int) -> np.ndarray:
        """(N,), all at once: a step that asked the devices for its views would wait for the steps before it."""
        index = self.layout.put(np.arange(self.sizes["train"], dtype=np.int32))
        return np.asarray(self._all_view_ids(self.key, np.int32(epoch), index))

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()


class Resident(_Batches):
    """A data set on the devices. strong: how strongly a strong view is augmented."""

    def __init__(self, layout: Layout, dataset: Dataset, *, strong: config.Strong, **how):
        super().__init__(layout, dataset, **how)
        self.arrays = {s: layout.put((getattr(dataset, s).images, getattr(dataset, s).labels)) for s in self.sizes}
        make = partial(resident.train_batch, **self._how)
        self._train = layout.jit(make, ins="rrbrr", outs="b")
        self._test = layout.jit(resident.test_batch, ins="rrbb", outs="b")
        self._gather = layout.jit(resident.whole_images, ins="rb", outs="b")
        image = partial(resident.strong_image, augment=self.augment, ops=strong.ops, magnitude=strong.magnitude)
        self._views = {"strong": layout.jit(image, ins="rbrr", outs="b")}

    def _batch(self, plan: TrainPlan, step: int, extra_views: tuple[str, ...]) -> Batch:
        epoch, index, _ = plan(step)
        index, epoch = self.layout.put(index, "b"), self.layout.put(np.int32(epoch))
        return self.gather(self.arrays["train"], self.key, index, epoch, extra_views)

    def gather(
        self, arrays: tuple[Array, Array], key: Array, index: Array, epoch: Array, extra_views: tuple[str, ...] = ()
    ) -> Batch:
        """The batch of the examples with these indices; a compiled program may call it with its own arguments.

        Args:
          arrays: `arrays["train"]`. key: `key`.
          index: (B,) int32. epoch: () int32.
          extra_views: as for `train`.
        """
        batch = self._train(*arrays, index, epoch, key)
        return _with_views(batch, {name: self._views[name](arrays[0], index, epoch, key) for name in extra_views})

    def _whole(self, index: np.ndarray) -> Array:
        return self._gather(self.arrays["train"][0], self.layout.put(index, "b"))

    def ahead(self, step: int, batch_size: int, split: Split | None = None) -> None:
        """Nothing: all of it is on the devices."""

    def test(self, batch_size: int) -> Iterator[Batch]:
        """Every test batch in order; the last one is filled up and masked."""
        n = self.sizes["test"]
        for step in range(-(-n // batch_size)):
            index, mask = resident.test_index(step, n=n, batch_size=batch_size)
            yield self._test(*self.arrays["test"], *self.layout.put((index, mask), "b"))

    def close(self) -> None:
        """Nothing runs."""


class Streamed(_Batches):
    """As `Resident`, but the examples stay where they are until a step needs them: computed ahead by workers, of which
    every process has its own and reads only the rows of its devices.

    To be closed at the end of a phase, whose batches no other needs, and of the run; it opens again by itself.
    """

    def __init__(self, layout: Layout, dataset: Dataset, *, strong: config.Strong, workers: int | None = None, **how):
        """workers: see `workers_of`; as many again read for tests."""
        super().__init__(layout, dataset, **how)
        self.share = share_of(layout)
        self._sources = {s: _source(getattr(dataset, s)) for s in self.sizes}
        self.workers = workers_of(dataset, workers)
        self._train = layout.jit(partial(streaming.train_batch, **self._how), ins="brr", outs="b")
        self._test = layout.jit(streaming.test_batch, ins="b", outs="b")
        self._images = layout.jit(streaming.whole_images, ins="b", outs="b")
        image = partial(streaming.strong_image, augment=self.augment, ops=strong.ops, magnitude=strong.magnitude)
        self._views = {"strong": layout.jit(image, ins="brr", outs="b")}
        self._streams: dict[Any, Stream] = {}
        self._sent: tuple | None = None  # (plan, step, batch): on its way to the devices
        self._rounds = 0  # over the test set
        self._flying: deque[Array] = deque()

    def _batch(self, plan: TrainPlan, step: int, extra_views: tuple[str, ...]) -> Batch:
        rows = self._send(plan, step) if plan.held_out else self._rows(plan, step)
        epoch = self.layout.put(np.int32(plan(step)[0]))
        batch = self._train(rows, epoch, self.key)
        self._flying.append(batch["image"])
        return _with_views(batch, {name: self._views[name](rows, epoch, self.key) for name in extra_views})

    def _whole(self, index: np.ndarray) -> Array:
        """Read here and now, beside the streams."""
        pixels = np.stack([self._sources["train"].view(i, self.seed, 0)[0] for i in index.tolist()])
        return self._images(self.layout.put(pixels, "b"))

    def ahead(self, step: int, batch_size: int, split: Split | None = None) -> None:
        """Send the batch of a step to the devices while they compute an earlier one."""
        self._rows(TrainPlan(self.seed, self.sizes["train"], batch_size, split), step)

    def test(self, batch_size: int) -> Iterator[Batch]:
        """As `Resident.test`. The next round is computed ahead too."""
        plan = EvalPlan(self.sizes["test"], batch_size)
        first, self._rounds = self._rounds * plan.steps, self._rounds + 1
        for step in range(first, first + plan.steps):
            batch = self._test(self._send(plan, step))
            self._flying.append(batch["image"])
            yield batch

    def close(self) -> None:
        """End the workers, and forget what they have read."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        self._flying.clear()
        self._sent = None

    def _rows(self, plan: TrainPlan, step: int) -> Batch:
        """The rows of a training step, which may have been sent before."""
        if self._sent is None or self._sent[:2] != (plan, step):
            self._sent = None  # its memory is free before the next one is sent
            self._sent = plan, step, self._send(plan, step)
        return self._sent[2]

    def _send(self, plan: TrainPlan | EvalPlan, step: int) -> Batch:
        """The rows of a step, still as stored, on the devices."""
        rows = self._stream(plan).at(step)
        while len(self._flying) >= FLIGHT:
            jax.block_until_ready(self._flying.popleft())
        return self.layout.assemble(rows)

    def _stream(self, plan: TrainPlan | EvalPlan) -> Stream:
        if plan not in self._streams:
            tests, workers, steps = isinstance(plan, EvalPlan), self.workers, None
            if not tests and plan.held_out:
                steps, workers = range(0, plan.split.steps, plan.split.every), -(-workers // plan.split.every)
            source = self._sources["test" if tests else "train"]
            arguments = {"steps": steps, "seed": self.seed, "share": self.share, "workers": workers}
            self._streams[plan] = Stream(source, plan, **arguments)
        return self._streams[plan]


def batches_of(recipe: config.Recipe, layout: Layout, dataset: Dataset) -> Resident | Streamed:
    """The data set, ordered and augmented as the recipe says.

    Raises:
      InputError: a mesh that a stream cannot be shared out to.
    """
    how = {"seed": recipe.data_seed, "augment": recipe.data.augment, "strong": recipe.data.strong}
    how |= {"mix": recipe.data.mix, "erase": recipe.data.erase}
    if recipe.data.stream:
        return Streamed(layout, dataset, **how, workers=recipe.data.workers)
    return Resident(layout, dataset, **how)


def workers_of(dataset: Dataset, asked: int | None) -> int:
    """How many processes read a stream of the set ahead: as many as are asked for; else one for every core that this
    process may use, and for images that lie in memory anyway none: then a thread does it."""
    if asked is not None:
        return asked
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return 0 if isinstance(dataset.train, Arrays) else len(affinity(0)) if affinity else os.cpu_count() or 1


def share_of(layout: Layout) -> Share:
    """What this process reads of every batch: the rows that its devices hold.

    Raises:
      InputError: a mesh of which the processes have not equally many devices, in order.
    """
    share, count = Share(jax.process_index(), jax.process_count()), layout.count
    held = layout.rows(count)
    if count % share.processes or held != set(range(count)[share.rows(count)]):
        raise InputError(
            f"config.parallel.mesh: {count} devices, of which process {share.process} of {share.processes} has "
            f"{len(held)}; accepted with config.data.stream: as many of every process, one process after the other"
        )
    return share


def _source(part: Any) -> Any:
    return InMemory(part) if isinstance(part, Arrays) else part


def _with_views(batch: Batch, images: dict[str, Array]) -> Batch:
    views = {name: {"image": image, "teachers": ()} for name, image in images.items()}
    return {**batch, "views": views} if views else batch
