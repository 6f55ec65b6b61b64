"""Augmentation on the device. A small integer names the view of an image, so that a teacher's outputs can be stored by
(image, view)."""

from zlib import crc32

import jax
import jax.numpy as jnp

from kd_jax.typing import Array

AUGMENTS = ("crop_flip", "crop", "none")


def root_key(seed: int) -> Array:
    """The key from which all augmentation on the device is drawn. Training may start from the same seed: its own root
    has another name."""
    return jax.random.fold_in(jax.random.key(seed), crc32(b"data"))


def padding(size: int) -> int:
    """Pixels of zero padding for random crops: 4 at the papers' 32 x 32, in proportion elsewhere."""
    return max(1, round(size / 8))


def num_views(augment: str, pad: int) -> int:
    """How many different views of one image there are."""
    return {"crop_flip": 2, "crop": 1}[augment] * (2 * pad + 1) ** 2 if augment != "none" else 1


def view_ids(key: Array, epoch: Array, index: Array, *, augment: str, pad: int) -> Array:
    """The view of every example in an epoch: a function of (key, epoch, index) and nothing else.

    Args:
      key: see `root_key`.
      epoch: ().
      index: (B,) positions in the training set.
      augment: one of AUGMENTS.
      pad: see `padding`.

    Returns:
      (B,) int32 in [0, num_views).
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, epoch), index)
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, num_views(augment, pad)))(keys)


def crop_flip(image: Array, view: Array, *, pad: int) -> Array:
    """The view'th crop of the zero-padded image, mirrored where view >= (2 pad + 1)^2.

    Args:
      image: (B, H, W, C).
      view: (B,) int32.
      pad: see `padding`.

    Returns:
      (B, H, W, C)
    """
    side = 2 * pad + 1
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def one(big: Array, v: Array) -> Array:
        corner = ((v // side) % side, v % side, 0)
        crop = jax.lax.dynamic_slice(big, corner, image.shape[1:])
        return jnp.where(v >= side**2, crop[:, ::-1], crop)

    return jax.vmap(one)(padded, view)


def views(image: Array, view: Array, *, augment: str, pad: int) -> Array:
    """The images in these views. Arguments as for `view_ids` and `crop_flip`."""
    return image if augment == "none" else crop_flip(image, view, pad=pad)


def augmented(image: Array, key: Array, epoch: Array, index: Array, *, augment: str, pad: int) -> Array:
    """The images of an epoch, cropped and mirrored. Arguments as for `view_ids` and `crop_flip`."""
    return views(image, view_ids(key, epoch, index, augment=augment, pad=pad), augment=augment, pad=pad)
