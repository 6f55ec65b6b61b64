"""Mixup and CutMix on the device, by timm's conventions: a batch is mixed with itself in reverse order."""

from zlib import crc32

import jax
import jax.numpy as jnp

from kd_jax.typing import Array, Batch


def mixed(
    batch: Batch, key: Array, epoch: Array, *, num_classes: int, mixup: float, cutmix: float, probability: float,
    switch: float,
) -> Batch:  # fmt: skip
    """Mix a batch: one share and one box for all of it, a function of (key, epoch, the batch's first index).

        image = share image + (1 - share) reversed image,   or a box of the reversed image in the image
        soft_label = share onehot(label) + (1 - share) onehot(reversed label)

    Args:
      batch: image (B, H, W, C), index (B,) and, if there are any, label (B,).
      key: see `augment.root_key`.
      epoch: ().
      num_classes: K.
      mixup, cutmix: the alphas of the Beta distributions of their shares, 0 for none; not both 0.
      probability: that a batch is mixed. switch: that a mixed batch is cut, where there are both.

    Returns:
      The batch with images mixed and, where there are labels, soft_label (B, K), and as label (B,) the class that has
      the most, of two equal ones the first.

    Reference: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018, arXiv 1710.09412.
      Yun, Han, Oh, Chun, Choe, Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
      Features", 2019, arXiv 1905.04899. The conventions are timm's (its mode "batch").
    Differs: the example in the middle of a batch of odd size is mixed with itself; timm refuses such a batch.
    """
    image = batch["image"]
    key = jax.random.fold_in(jax.random.fold_in(key, crc32(b"mixing")), epoch)
    keys = jax.random.split(jax.random.fold_in(key, batch["index"][0]), 6)
    is_mixed = jax.random.uniform(keys[0]) < probability
    cuts = jax.random.uniform(keys[1]) < switch if mixup and cutmix else bool(cutmix)
    blended = jax.random.beta(keys[2], mixup, mixup) if mixup else 1.0
    uncut = jax.random.beta(keys[3], cutmix, cutmix) if cutmix else 1.0
    sides = image.shape[1:3]
    centre = [jax.random.randint(k, (), 0, side) for k, side in zip(keys[4:], sides, strict=True)]
    inside, uncut = box(uncut, centre, sides)
    share = jnp.where(is_mixed, jnp.where(cuts, uncut, blended), 1.0)
    pasted = jnp.where(inside[..., None], image[::-1], image)
    blend = share * image + (1 - share) * image[::-1]
    mixed_batch = {**batch, "image": jnp.where(is_mixed, jnp.where(cuts, pasted, blend), image)}
    if "label" not in batch:
        return mixed_batch
    one_hot = jax.nn.one_hot(batch["label"], num_classes)
    soft = share * one_hot + (1 - share) * one_hot[::-1]
    return {**mixed_batch, "soft_label": soft, "label": jnp.argmax(soft, axis=-1).astype(batch["label"].dtype)}


def box(share: Array | float, centre: list[Array], sides: tuple[int, int]) -> tuple[Array, Array]:
    """The cells of CutMix's box, (H, W) booleans, and the share () of the image that it leaves.

    It is sqrt(1 - share) as high and wide as the image, in whole pixels, cut off at the image's edge; of an odd side
    one pixel is lost.

    Args:
      share: (), of the image outside of a box that is not cut off.
      centre: its row and column.
      sides: (H, W).
    """
    along = []
    for middle, side in zip(centre, sides, strict=True):
        half = jnp.floor(side * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        cell = jnp.arange(side)
        along.append((cell >= middle - half) & (cell < middle + half))
    inside = along[0][:, None] & along[1]
    return inside, 1 - jnp.sum(inside) / inside.size
