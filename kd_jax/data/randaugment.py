"""RandAugment on the device: FixMatch's list of operations as Pillow does them, and strong views made with it.

An operation takes pixels (B, H, W, C) int32 in 0..255, C = 1 or 3, and magnitudes (B,), one an image. All images go
through one program, so that a batch costs the same whatever is drawn.

Reference: Cubuk, Zoph, Shlens, Le, "RandAugment: Practical automated data augmentation with a reduced search space",
  2020, arXiv 1909.13719; Sohn et al., "FixMatch", 2020, arXiv 2001.07685; as the published code of MLLD has it.
Differs: the results are Pillow's but for roundings. AutoContrast: Pillow computes its table in floats, which at 0.4 %
  of (darkest, brightest, level) falls one level below the exact one, ours. Brightness, Color, Contrast, Sharpness (one
  level) and Rotate (the pixel beside): float32 here, at fewer than 1 pixel in 10^4.
"""

from typing import NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp

from kd_jax.data import augment as aug
from kd_jax.typing import Array

FULL = 10.0  # the magnitude of the published recipe
BOX = (125, 123, 114)  # colour of the cutout
_SALT = [crc32(name.encode()) for name in ("strong", "randaugment")]  # far above any epoch


class Range(NamedTuple):
    """The range of an operation's magnitude, which is drawn uniformly, and the value at which it changes nothing."""

    low: float
    high: float
    still: float


OPS = {
    "AutoContrast": Range(0, 1, 0),  # no magnitude
    "Brightness": Range(0.05, 0.95, 1),
    "Color": Range(0.05, 0.95, 1),
    "Contrast": Range(0.05, 0.95, 1),
    "Equalize": Range(0, 1, 0),  # no magnitude
    "Identity": Range(0, 1, 0),
    "Posterize": Range(4, 8, 8),  # bits kept, rounded down
    "Rotate": Range(-30, 30, 0),  # degrees, counterclockwise
    "Sharpness": Range(0.05, 0.95, 1),
    "ShearX": Range(-0.3, 0.3, 0),
    "ShearY": Range(-0.3, 0.3, 0),
    "Solarize": Range(0, 256, 256),  # levels from here on are inverted
    "TranslateX": Range(-0.3, 0.3, 0),  # share of the width
    "TranslateY": Range(-0.3, 0.3, 0),  # share of the height
}
_ID = {name: i for i, name in enumerate(OPS)}


class Draw(NamedTuple):
    """The draws of a batch. op, value: (B, n), numbers in OPS and their magnitudes, in order.

    size: (B,), side of the cutout as a share of the width. centre: (B, 2), row and column, in pixels.
    """

    op: Array
    value: Array
    size: Array
    centre: Array


def draw(keys: Array, shape: tuple[int, ...], *, ops: int = 2, magnitude: float = FULL) -> Draw:
    """The draws of every image, each from its own key. Arguments as for `randaugment`; shape: (H, W)."""
    low, high, still = jnp.asarray(list(OPS.values()), jnp.float32).T

    def one(key: Array) -> Draw:
        of_op, of_value, of_box = jax.random.split(key, 3)
        op = jax.random.randint(of_op, (ops,), 0, len(OPS))
        value = low[op] + (high - low)[op] * jax.random.uniform(of_value, (ops,))
        size, *centre = jax.random.uniform(of_box, (3,))
        centre = jnp.stack([n - (n - 1) * u for n, u in zip(shape, centre, strict=True)])
        if magnitude != FULL:
            value = still[op] + (value - still[op]) * (magnitude / FULL)
        return Draw(op, value, 0.5 * size * (magnitude / FULL), centre)

    return jax.vmap(one)(keys)


def randaugment(image: Array, keys: Array, *, ops: int = 2, magnitude: float = FULL, cutout: bool = True) -> Array:
    """`ops` operations one after the other, each drawn from OPS with replacement and with its magnitude, then a box.

    The box is square, of a side drawn from 0 to half the width, its middle anywhere in the image, cut off at the
    image's edge, of one colour (on grey images that colour's grey).

    Args:
      image: (B, H, W, C) in [0, 1], taken as 8 bits: k / 255. C is 1 or 3.
      keys: (B,), one an image. An image's result is a function of its own key alone.
      ops: >= 0, how many operations.
      magnitude: 0 to 10. 10 draws as published. Less moves every magnitude in proportion towards where its operation
        changes nothing; at 0 only AutoContrast and Equalize, which have no magnitude, change anything.
      cutout: whether there is a box.

    Returns:
      (B, H, W, C) float32 in [0, 1], k / 255.

    Raises:
      ValueError: other channels, a number of operations or a magnitude outside its range.

    Differs: the published code takes a magnitude (10) and does not use it; it has no grey images. As there, the
      middle of the box is drawn from 1 to H and from 1 to W, not from 0 (a slip in its call of numpy's uniform).
    """
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"randaugment: images of 1 or 3 channels wanted, got {image.shape[-1]}")
    if ops < 0:
        raise ValueError(f"randaugment: ops must be at least 0, got {ops}")
    if not 0 <= magnitude <= FULL:
        raise ValueError(f"randaugment: magnitude must be from 0 to {FULL:g}, got {magnitude}")
    drawn = draw(keys, image.shape[1:3], ops=ops, magnitude=magnitude)
    x = jnp.rint(image * 255).astype(jnp.int32)
    for i in range(ops):
        x = transformed(x, drawn.op[:, i], drawn.value[:, i])
    if cutout and magnitude:
        x = cut(x, drawn.size, drawn.centre)
    return x.astype(jnp.float32) / 255


def strong_views(
    image: Array,
    key: Array,
    epoch: Array,
    index: Array,
    *,
    augment: str,
    pad: int,
    ops: int = 2,
    magnitude: float = FULL,
) -> Array:
    """The strong view of every example in an epoch: crop and flip as the data set's, then RandAugment.

    The strong view of an example is a function of its image and of (key, epoch, index); the rest of the batch does not
    matter. Its crop and flip are independent of those of the usual view.

    Args:
      image: (B, H, W, C) in [0, 1], as they are stored.
      key: see `augment.root_key`.
      epoch: ().
      index: (B,) positions in the training set.
      augment: one of augment.AUGMENTS.
      pad: see augment.padding.
      ops, magnitude: see `randaugment`.

    Returns:
      (B, H, W, C) in [0, 1]

    Raises:
      ValueError: as `randaugment`.
    """
    of_view, of_ops = (jax.random.fold_in(key, salt) for salt in _SALT)
    image = aug.augmented(image, of_view, epoch, index, augment=augment, pad=pad)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(of_ops, epoch), index)
    return randaugment(image, keys, ops=ops, magnitude=magnitude)


def transformed(x: Array, op: Array, value: Array) -> Array:
    """One operation on every image. x: (B, H, W, C) int32 in 0..255. op: (B,), numbers in OPS. value: (B,)."""
    v, grey = value[:, None, None, None], _grey(x)
    chosen = {name: (op == i)[:, None, None, None] for name, i in _ID.items()}
    start = jnp.zeros_like(x)  # Brightness
    for name, other in (("Color", grey), ("Contrast", _level(grey)), ("Sharpness", _smooth(x))):
        start = jnp.where(chosen[name], other, start)
    blended = (start + v * (x - start)).astype(jnp.int32)
    blends = chosen["Brightness"] | chosen["Color"] | chosen["Contrast"] | chosen["Sharpness"]
    # of others the value means something else: their shift is out of range, where its result is not defined
    bits = jnp.where(chosen["Posterize"], v, 8.0).astype(jnp.int32)
    y = jnp.where(blends, blended, _moved(x, op, value))
    y = jnp.where(chosen["Posterize"], (x >> (8 - bits)) << (8 - bits), y)
    y = jnp.where(chosen["Solarize"] & (x >= v), 255 - x, y)
    y = jnp.where(chosen["AutoContrast"], _autocontrast(x), y)
    return jnp.where(chosen["Equalize"], _equalize(x), y)


def cut(x: Array, size: Array, centre: Array) -> Array:
    """A box of one colour in every image. size, centre: see Draw. Its far edges are part of it, as Pillow draws it."""
    height, width, channels = x.shape[1:]
    side, most = size * width, jnp.asarray((height, width), jnp.float32)
    first = jnp.floor(jnp.maximum(centre - side[:, None] / 2, 0))
    last = jnp.floor(jnp.minimum(first + side[:, None], most))
    row, column = (
        (first[:, i, None] <= jnp.arange(n)) & (jnp.arange(n) <= last[:, i, None])
        for i, n in enumerate((height, width))
    )
    inside = (row[:, :, None] & column[:, None, :] & (size > 0)[:, None, None])[..., None]
    colour = jnp.asarray(BOX, jnp.int32)
    return jnp.where(inside, colour if channels == 3 else _grey(colour), x)


def _grey(x: Array) -> Array:
    """(..., C) to (..., 1): luma (ITU-R 601-2) in 16-bit fixed point."""
    if x.shape[-1] == 1:
        return x
    red, green, blue = (x[..., i : i + 1] for i in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _level(grey: Array) -> Array:
    """(B, H, W, 1) to (B, 1, 1, 1): the mean grey, rounded."""
    n = grey[0].size
    return (2 * jnp.sum(grey, axis=(1, 2, 3), keepdims=True) + n) // (2 * n)


def _smooth(x: Array) -> Array:
    """Every pixel averaged with its eight neighbours, itself counted five times; the outermost ones stay."""
    height, width = x.shape[1:3]
    if min(height, width) < 3:
        return x
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    return x.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)


def _autocontrast(x: Array) -> Array:
    """Every channel stretched to 0..255; one of a single level stays."""
    low, high = (f(x, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    return jnp.where(high > low, (x - low) * 255 // jnp.maximum(high - low, 1), x)


def _equalize(x: Array) -> Array:
    """Every channel's histogram made flat, as far as a map of levels to levels can."""
    batch, height, width, channels = x.shape
    shape = (batch, 1, 1, channels, 256)
    place = x + 256 * jnp.arange(batch * channels).reshape(batch, 1, 1, channels)
    counts = jnp.zeros(batch * channels * 256, jnp.int32).at[place].add(1, mode="promise_in_bounds").reshape(shape)
    below = jnp.cumsum(counts, axis=-1) - counts
    brightest = jnp.sum(x == jnp.max(x, axis=(1, 2), keepdims=True), axis=(1, 2), keepdims=True)
    step = (height * width - brightest)[..., None] // 255
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    table = jnp.where(step > 0, table, jnp.arange(256))
    return jnp.take(table.reshape(-1), place, mode="clip")


def _moved(x: Array, op: Array, value: Array) -> Array:
    """Rotate, shears and translations: the nearest pixel, black from outside; other images stay.

    A pixel's place in the source is an affine map of its own, in 16-bit fixed point as Pillow computes it.
    """
    batch, height, width, channels = x.shape
    angle = jnp.deg2rad(jnp.where(op == _ID["Rotate"], value, 0.0))
    turned = op == _ID["Rotate"]
    shear_x, shear_y, slide_x, slide_y = (
        jnp.where(op == _ID[name], value, 0.0) for name in ("ShearX", "ShearY", "TranslateX", "TranslateY")
    )
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    # where the middle (0.5, 0.5) of the first pixel comes from
    x0 = jnp.where(turned, cos * (0.5 - middle_x) - sin * (0.5 - middle_y) + middle_x, 0.5 + shear_x / 2)
    y0 = jnp.where(turned, sin * (0.5 - middle_x) + cos * (0.5 - middle_y) + middle_y, 0.5 + shear_y / 2)
    across, down = _fixed(jnp.stack([cos, shear_x - sin])), _fixed(jnp.stack([sin + shear_y, cos]))
    # translations are not in fixed point there: nothing may be rounded up to the next pixel
    x0 = _fixed(x0) + 65536 * jnp.floor(0.5 + slide_x * width).astype(jnp.int32)
    y0 = _fixed(y0) + 65536 * jnp.floor(0.5 + slide_y * height).astype(jnp.int32)
    column, row = jnp.arange(width), jnp.arange(height)[:, None]
    from_x, from_y = (
        (start + by_column * column + by_row * row) >> 16
        for start, by_column, by_row in (
            m[:, :, None, None] for m in (jnp.stack([x0, *across]), jnp.stack([y0, *down]))
        )
    )
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    place = jnp.where(inside, from_y * width + from_x, 0).reshape(batch, height * width, 1)
    read = jnp.take_along_axis(x.reshape(batch, height * width, channels), place, axis=1).reshape(x.shape)
    return jnp.where(inside[..., None], read, 0)


def _fixed(v: Array) -> Array:
    """In 16-bit fixed point."""
    return jnp.floor(v * 65536 + 0.5).astype(jnp.int32)
