"""Augmentation of feature maps: SoKD's nine operations, and pairs of them that are drawn inside a compiled step.

An operation is (x, magnitude, key, *, published) -> x': maps (B, H, W, C) of any height and width, one random draw for
the whole batch, magnitude () in [0, 1]. Magnitude 0 gives x, bit for bit; 1 gives the largest change. The gradient by
the magnitude is
  exact for shears, translations and rotation (bilinear interpolation, which is smooth except where a position meets a
    cell's centre; the derivative is one-sided there), for the cutout (its edges cover parts of cells), for the noise;
  that of the mean over the draw, straight through, for ChannelDrop;
  0 for ChannelShuffle.

Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge Distillation",
  2024, arXiv 2409.18785 (DAFA); ranges as in public code of that name (dfkd in a fork of mdistiller).
Differs: for the first five operations that code maps the magnitude linearly onto -max..max, hence 0.5 changes nothing
  and 0 the most; ours maps it onto 0..max, with a sign that is drawn for the batch. Its ChannelShuffle ignores the
  magnitude. `published=True` restores both. That code gives no operation a true gradient by the magnitude (it sets
  d x' / d magnitude to 1). It shears and rotates in units of half the map, which on maps that are not square is another
  shear and no rotation; ours works in cells. Its translation takes cells for half maps, so that nearly any magnitude
  moves the whole map out; ours is a share of the map. Its cutout rounds the box down to an even number of whole
  cells: none on 8 x 8 maps.
"""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.typing import Array


@jax.custom_jvp
def straight_through(hard: Array, soft: Array) -> Array:
    """The value of `hard` with the derivatives of `soft`; two arrays of one shape and float type."""
    del soft
    return hard


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return straight_through(*primals), tangents[1]


def _affine(name: str, x: Array, magnitude: Array, key: Array, published: bool) -> Array:
    """(2, 3): takes (row, column, 1) of a cell to the position that it reads, both in cells from the middle."""
    one, zero = jnp.ones((), x.dtype), jnp.zeros((), x.dtype)
    amount = _signed(LIMITS[name], x, magnitude, key, published)
    rows = {
        "ShearX": ((one, zero, zero), (amount, one, zero)),
        "ShearY": ((one, amount, zero), (zero, one, zero)),
        "TranslateX": ((one, zero, zero), (zero, one, amount * x.shape[2])),
        "TranslateY": ((one, zero, amount * x.shape[1]), (zero, one, zero)),
        "Rotate": ((jnp.cos(amount), -jnp.sin(amount), zero), (jnp.sin(amount), jnp.cos(amount), zero)),
    }
    return jnp.array(rows[name])


def _moved(x: Array, matrix: Array) -> Array:
    """The map, read at the positions that a matrix gives."""
    row, col = _centred(x)
    return _bilinear(x, *(m[0] * row + m[1] * col + m[2] for m in matrix))


def _affine_operation(name: str, doc: str):
    def operation(x: Array, magnitude: Array, key: Array, *, published: bool = False) -> Array:
        return _moved(x, _affine(name, x, magnitude, key, published))

    operation.__doc__ = doc
    return operation


LIMITS = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": 0.45, "TranslateY": 0.45, "Rotate": np.pi / 6}
shear_x = _affine_operation(
    "ShearX", "Rows slide along the width, by up to 0.3 cells for each cell from the middle row."
)
shear_y = _affine_operation("ShearY", "Columns slide along the height, likewise.")
translate_x = _affine_operation("TranslateX", "Move along the width by up to 0.45 of it; zeros come in.")
translate_y = _affine_operation("TranslateY", "Move along the height by up to 0.45 of it; zeros come in.")
rotate = _affine_operation("Rotate", "Turn about the middle of the map by up to 30 degrees.")


def cutout(x: Array, magnitude: Array, key: Array, *, published: bool = False) -> Array:
    """Zero one box of up to 0.2 H x 0.2 W for all examples and channels, its centre anywhere on the map.

    A cell loses the share of it that the box covers. The part of a box beyond the map has no effect, as in published
    code.
    """
    del published

    def covered(size: int, key: Array) -> Array:
        cell = jnp.arange(size, dtype=x.dtype)
        centre = size * jax.random.uniform(key, (), x.dtype)
        half = 0.1 * size * magnitude
        return jnp.maximum(jnp.minimum(cell + 1, centre + half) - jnp.maximum(cell, centre - half), 0)

    rows, cols = (covered(size, k) for size, k in zip(x.shape[1:3], jax.random.split(key), strict=True))
    return x * (1 - rows[:, None] * cols)[..., None]


def noise(x: Array, magnitude: Array, key: Array, *, published: bool = False) -> Array:
    """Add Gaussian noise of deviation up to 0.1, whatever the scale of the map."""
    del published
    return x + 0.1 * magnitude * jax.random.normal(key, x.shape, x.dtype)


def channel_shuffle(x: Array, magnitude: Array, key: Array, *, published: bool = False) -> Array:
    """Permute round(magnitude C) channels among themselves: which ones, and how, uniformly at random."""
    width = x.shape[-1]
    count = width if published else jnp.round(magnitude * width)
    choice_key, order_key = jax.random.split(key)
    order = jax.random.permutation(choice_key, width)  # the first `count` of it are permuted
    chosen = jnp.arange(width) < count
    ranks = jnp.where(jnp.zeros(width, bool).at[order].set(chosen), jax.random.uniform(order_key, (width,)), jnp.inf)
    source = jnp.arange(width).at[order].set(jnp.where(chosen, jnp.argsort(ranks), order))
    return jnp.take(x, source, axis=-1, mode="clip")


def channel_drop(x: Array, magnitude: Array, key: Array, *, published: bool = False) -> Array:
    """Zero each channel with probability 0.5 magnitude, the same ones for all examples; the rest is not rescaled."""
    del published
    share = jnp.broadcast_to(1 - 0.5 * jnp.asarray(magnitude, x.dtype), x.shape[-1:])
    stays = jax.random.uniform(key, share.shape, x.dtype) < share
    return x * straight_through(stays.astype(x.dtype), share)


FUNCTIONS = {
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Cutout": cutout,
    "Noise": noise,
    "ChannelShuffle": channel_shuffle,
    "ChannelDrop": channel_drop,
}
OPERATIONS = tuple(FUNCTIONS)
PAIRS = np.array(tuple(combinations(range(len(OPERATIONS)), 2)), np.int32)  # (36, 2), each in the published order


def first_magnitudes(*, published: bool = False) -> Array:
    """(36, 2): where the magnitudes of the pairs' operations start, as public code has them.

    That code starts at 0.5, which on its scale is no change for the five that move cells; on ours that is 0.
    """
    moves = jnp.asarray(PAIRS) < len(LIMITS)
    return jnp.where(moves & (not published), 0.0, 0.5)


def apply_pair(x: Array, pair: Array, on: Array, magnitudes: Array, key: Array, *, published: bool = False) -> Array:
    """Run the two operations of a sub-policy one after the other, each only if its `on` is 1.

        x  <-  on_i op_i(x) + (1 - on_i) x            i = 0, 1

    One program for all pairs: of the nine operations only the drawn one runs (under vmap over `pair`, all of them do).

    Args:
      x: (B, H, W, C), float32.
      pair: (2,) int, positions in OPERATIONS: a row of jnp.asarray(PAIRS).
      on: (2,) of 0 or 1; d x' / d on_i = op_i(x) - x, so that a straight-through `on` passes gradient. 0 and 0 is x.
      magnitudes: (2,) in [0, 1].
      key: PRNG key.
      published: read the magnitudes as the published code does; see the module's docstring.

    Returns:
      (B, H, W, C). Nothing is detached: x, on and magnitudes have their gradients.
    """
    rest = [f for name, f in FUNCTIONS.items() if name not in LIMITS]

    def moved(which: Array, x: Array, magnitude: Array, key: Array) -> Array:
        matrices = jnp.stack([_affine(name, x, magnitude, key, published) for name in LIMITS])
        return _moved(x, matrices[which])

    def other(f, which: Array, *args: Array) -> Array:
        return f(*args, published=published)

    branches = [moved, *(partial(other, f) for f in rest)]  # the five that move cells are one: fewer to compile

    def one(x: Array, drawn) -> tuple[Array, None]:
        which, on, magnitude, key = drawn
        branch = jnp.maximum(which - len(LIMITS) + 1, 0)
        changed = jax.lax.switch(branch, branches, jnp.minimum(which, len(LIMITS) - 1), x, magnitude, key)
        return on * changed + (1 - on) * x, None

    drawn = (pair, on.astype(x.dtype), magnitudes.astype(x.dtype), jax.random.split(key))
    return jax.lax.scan(one, x, drawn)[0]


def _signed(limit: float, x: Array, magnitude: Array, key: Array, published: bool) -> Array:
    if published:
        return limit * (2 * magnitude - 1)
    return limit * magnitude * jax.random.rademacher(key, (), x.dtype)


def _centred(x: Array) -> tuple[Array, Array]:
    """Row (H, 1) and column (1, W) of every cell, in cells from the middle of the map."""
    row, col = (jnp.arange(size, dtype=x.dtype) - (size - 1) / 2 for size in x.shape[1:3])
    return row[:, None], col[None, :]


def _bilinear(x: Array, row: Array, col: Array) -> Array:
    """x read at positions (H, W), in cells from its middle; zeros around it. Whole positions read cells exactly."""
    b, h, w, c = x.shape
    cells = x.reshape(b, h * w, c)
    row, col = (jnp.broadcast_to(place + (size - 1) / 2, (h, w)) for place, size in ((row, h), (col, w)))
    top, left = jnp.floor(row), jnp.floor(col)
    total = 0
    for i, high in ((top, 1 - (row - top)), (top + 1, row - top)):
        for j, wide in ((left, 1 - (col - left)), (left + 1, col - left)):
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            cell = jnp.where(inside, i * w + j, 0).astype(jnp.int32)
            total += jnp.take(cells, cell, axis=1, mode="clip") * jnp.where(inside, high * wide, 0)[..., None]
    return total
