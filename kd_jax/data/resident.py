"""Batches from a data set that lives on the device. Nothing here has a state: the batch of a step is
a function of (data seed, step), so that a run resumes at the exact example."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from kd_jax.data import augment as aug
from kd_jax.data.randaugment import strong_views
from kd_jax.typing import Array, Batch

EXTRA_VIEWS = ("strong",)  # other images of a batch that a method can ask for, see `strong_image`


class Split(NamedTuple):
    """A search holds out `held_out` training examples during its first `steps` steps, and reads a batch of them at
    every `every`th step."""

    steps: int = 0
    held_out: int = 0
    every: int = 1


@lru_cache(maxsize=4)
def part(seed: int, n: int, count: int, held_out: bool) -> np.ndarray:
    """Positions of the `count` held-out examples, or of the n - count others; a function of the seed."""
    shuffled = np.random.default_rng((seed, 1, n)).permutation(n).astype(np.int32)
    return np.sort(shuffled[:count] if held_out else shuffled[count:])


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """(n,) int32: the order of the n training examples in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(n).astype(np.int32)


def train_index(
    seed: int, step: int, *, n: int, batch_size: int, split: Split | None = None, held_out: bool = False
) -> tuple[int, np.ndarray]:
    """Epoch and example indices (B,) of a training step. Batches are full: the ragged last one of
    an epoch is dropped. While a split lasts, training reads only the examples that are not held out; with
    `held_out`, the indices are those of held-out examples, for the outer loss of the step.

    Differs: the published loaders keep the last batch (782 steps an epoch on CIFAR at 64; here 781).
    """
    if split and split.held_out and step < split.steps:
        positions = part(seed, n, split.held_out, held_out)
        epoch, index = train_index(seed, step, n=len(positions), batch_size=batch_size)
        return epoch, positions[index]
    epoch, position = divmod(step, n // batch_size)
    return epoch, order(seed, epoch, n)[position * batch_size : (position + 1) * batch_size]


def test_index(step: int, *, n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Example indices (B,) and mask (B,) of a test batch; every example counts exactly once."""
    index = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    return np.minimum(index, n - 1), (index < n).astype(np.float32)


def train_batch(
    images: Array, labels: Array | None, index: Array, epoch: Array, key: Array, *, augment: str,
    changes: tuple[Callable, ...] = (),
) -> Batch:  # fmt: skip
    """Gather, augment and change. Pure, for the device.

    Args:
      images: (N, H, W, C) uint8. labels: (N,), or None: then the batch has none.
      index: (B,) int32.
      epoch: () int32.
      key: see `augment.root_key`.
      augment: one of augment.AUGMENTS.
      changes: (batch, key, epoch) -> batch, one after the other: see `erasing.erased` and `mixing.mixed`.

    Returns:
      The batch record; images in [0, 1].
    """
    batch = test_batch(images, labels, index, jnp.ones(index.shape, jnp.float32))
    pad = aug.padding(images.shape[1])
    batch = {**batch, "image": aug.augmented(batch["image"], key, epoch, index, augment=augment, pad=pad)}
    return changed(batch, key, epoch, changes)


def changed(batch: Batch, key: Array, epoch: Array, changes: tuple[Callable, ...]) -> Batch:
    """The batch after these changes. Arguments as for `train_batch`."""
    for change in changes:
        batch = change(batch, key, epoch)
    return batch


def strong_image(
    images: Array, index: Array, epoch: Array, key: Array, *, augment: str, ops: int, magnitude: int
) -> Array:
    """The strong view (B, H, W, C) of a batch. Arguments as in `train_batch` and `randaugment.strong_views`."""
    pad, image = aug.padding(images.shape[1]), whole_images(images, index)
    return strong_views(image, key, epoch, index, augment=augment, pad=pad, ops=ops, magnitude=magnitude)


def test_batch(images: Array, labels: Array | None, index: Array, mask: Array) -> Batch:
    """Gather without augmentation. Arguments and result as in `train_batch`."""
    batch = {"image": whole_images(images, index), "index": index, "mask": mask}
    return batch if labels is None else {**batch, "label": jnp.take(labels, index)}


def whole_images(images: Array, index: Array) -> Array:
    """The images (B, H, W, C) at these positions, in [0, 1], before any augmentation."""
    return jnp.take(images, index, axis=0).astype(jnp.float32) / 255
