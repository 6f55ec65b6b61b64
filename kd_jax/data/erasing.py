"""Random erasing on the device, by timm's conventions: a rectangle of some images becomes noise or a constant."""

from zlib import crc32

import jax
import jax.numpy as jnp

from kd_jax.typing import Array, Batch

TRIES = 10  # for a rectangle that fits


def erased(
    batch: Batch, key: Array, epoch: Array, *, mean: tuple[float, ...], std: tuple[float, ...], probability: float,
    fill: str, min_area: float, max_area: float, min_aspect: float,
) -> Batch:  # fmt: skip
    """Erase a rectangle of every image with this probability: each a function of (key, epoch, index) and nothing else.

    Its share of the image's area is uniform in [min_area, max_area], the logarithm of its height over its width uniform
    between those of min_aspect and 1 / min_aspect; both sides are rounded to whole pixels. The first of ten rectangles
    that is lower and narrower than the image is erased, at a uniform place in it; if there is none, nothing is.

    timm fills images that are normalised, with standard normal numbers or zeros; in [0, 1], as images are here, these
    are mean + std normal numbers, which are not cut at 0 and 1, or the mean.

    Args:
      batch: image (B, H, W, C), index (B,).
      key: see `augment.root_key`.
      epoch: ().
      mean, std: of every channel, with which images will be normalised.
      probability: of an image to have a rectangle erased.
      fill: "pixel", noise of every pixel and channel; "channel", of every channel; or "constant", the mean (timm's
        "pixel", "rand" and "const").
      min_area, max_area, min_aspect: above 0, at most 1.

    Returns:
      The batch with other images.

    Reference: Zhong, Zheng, Kang, Li, Yang, "Random Erasing Data Augmentation", 2017, arXiv 1708.04896. The conventions
      are timm's (its `RandomErasing` with one rectangle).
    """
    image = batch["image"]
    key = jax.random.fold_in(jax.random.fold_in(key, crc32(b"erasing")), epoch)
    ranges = {"min_area": min_area, "max_area": max_area, "min_aspect": min_aspect}

    def one(image: Array, index: Array) -> Array:
        chance, place, noise = jax.random.split(jax.random.fold_in(key, index), 3)
        inside = rectangle(place, image.shape[:2], **ranges) & (jax.random.uniform(chance) < probability)
        shape = {"pixel": image.shape, "channel": image.shape[2:]}.get(fill)
        normal = jax.random.normal(noise, shape) if shape else 0.0
        return jnp.where(inside[..., None], jnp.asarray(mean) + jnp.asarray(std) * normal, image)

    return {**batch, "image": jax.vmap(one)(image, batch["index"])}


def rectangle(key: Array, sides: tuple[int, int], *, min_area: float, max_area: float, min_aspect: float) -> Array:
    """The cells (H, W) of a random rectangle, booleans; none where no try fits. Arguments as for `erased`.

    sides: (H, W).
    """
    of_area, of_aspect, of_corner = jax.random.split(key, 3)
    height, width = sides
    area = jax.random.uniform(of_area, (TRIES,), minval=min_area, maxval=max_area) * (height * width)
    bound = -jnp.log(min_aspect)
    aspect = jnp.exp(jax.random.uniform(of_aspect, (TRIES,), minval=-bound, maxval=bound))
    rows, columns = (jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (area * aspect, area / aspect))
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits)
    along = []
    for k, side, length in zip(jax.random.split(of_corner), sides, (rows[first], columns[first]), strict=True):
        start, cell = jax.random.randint(k, (), 0, jnp.maximum(side - length, 0) + 1), jnp.arange(side)
        along.append((cell >= start) & (cell < start + length))
    return along[0][:, None] & along[1] & jnp.any(fits)
