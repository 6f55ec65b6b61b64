"""Draws examples of other classes on the device: without repeats, without sorting, in any number."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.typing import Array, InputError

SMALL = 1000  # examples; the Feistel network mixes slowly where its halves are smaller
ROUNDS = {True: 24, False: 8}  # by whether small; with 8, pairs of 5 others are uneven by 6 percent, of 40 by under 0.5


class Table(NamedTuple):
    """What `draw` reads; all int32.

    order: (N,) positions in the training set, sorted by class. start, count: (K,) the first position of a class in
    `order` and its number of examples. side: (K,) about the square root of the number of examples of other classes.
    """

    order: Array
    start: Array
    count: Array
    side: Array


def table(labels, num_classes: int) -> Table:
    """The table of a training set.

    Args:
      labels: (N,) whole numbers in [0, num_classes), N < 2^31; concrete.
      num_classes: K.

    Raises:
      InputError: labels out of range, or all of one class.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not labels.size or labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(f"negatives: labels (N,) from 0 to {num_classes - 1} wanted, got {_range(labels)}")
    count = np.bincount(labels, minlength=num_classes)
    if count.max() == labels.size:
        raise InputError(f"negatives: all {labels.size} examples are of class {labels[0]}; two classes at least wanted")
    order, start = np.argsort(labels, kind="stable"), np.cumsum(count) - count
    side = np.ceil(np.sqrt(labels.size - count))
    return Table(*(jnp.asarray(x, jnp.int32) for x in (order, start, count, side)))


def draw(table: Table, key: Array, *, labels: Array, index: Array, count: int) -> Array:
    """Draws `count` examples of other classes for every example, all different while there are enough of them.

    Let an example have n others. They are numbered, and the numbers 0 to count - 1, modulo n, go through a bijection of
    [0, n) that the example's key chooses. So no example comes twice, each is as likely as any other, and where
    count > n each comes floor(count / n) or ceil(count / n) times. The bijection is a Feistel network on pairs (x, y),
    x < a, y < b, where a is the square root of n and b = n / a, both rounded up. Results of n or above, fewer than one
    in b, go through it again. The cost is B count elementwise operations in a loop of a few turns; nothing is sorted.

    An example's draw is a function of the key and its index. Its place in the batch and the device do not matter.

    Args:
      table: of the training set.
      key: PRNG key; a new one for a new draw.
      labels: (B,) the examples' classes.
      index: (B,) int32, their positions in the training set.
      count: from 1 to 2^31 - 1.

    Returns:
      (B, count) int32, positions in the training set.
    """
    rounds = ROUNDS[len(table.order) < SMALL]
    keys = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), (rounds,), jnp.uint32))(index)
    same, start, a = (x[labels][:, None] for x in (table.count, table.start, table.side))
    n, a = (jnp.uint32(x) for x in (len(table.order) - same, a))
    b = (n + a - 1) // a
    number = jnp.arange(count, dtype=jnp.uint32) % n

    def turn(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, y, outside = state
        permuted = _feistel((x, y), (a, b), keys)
        x, y = (jnp.where(outside, new, old) for new, old in zip(permuted, (x, y), strict=True))
        return x, y, x * b + y >= n

    first = (number // b, number % b, jnp.ones(number.shape, bool))
    x, y, _ = jax.lax.while_loop(lambda state: jnp.any(state[2]), turn, first)
    rank = jnp.int32(x * b + y)
    return table.order[jnp.where(rank < start, rank, rank + same)]


def _feistel(pair: tuple[Array, Array], sizes: tuple[Array, Array], keys: Array) -> tuple[Array, Array]:
    """A bijection of pairs (x, y), x < sizes[0], y < sizes[1]: in turns, a hash of one number shifts the other."""
    pair = list(pair)
    for k in range(keys.shape[1]):
        i = k % 2
        shifted = pair[i] + _below(_hash(pair[1 - i] + keys[:, k, None]), sizes[i])
        pair[i] = jnp.where(shifted >= sizes[i], shifted - sizes[i], shifted)
    return tuple(pair)


def _hash(x: Array) -> Array:
    """uint32 to uint32 by xor-shifts and two odd factors: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _below(x: Array, size: Array) -> Array:
    """x size / 2^32, rounded down: evenly into [0, size), without a division; size < 2^16."""
    return ((x >> 16) * size + ((x & 0xFFFF) * size >> 16)) >> 16


def _range(labels: np.ndarray) -> str:
    if labels.ndim != 1 or not labels.size:
        return f"shape {labels.shape}"
    return f"{labels.min()} to {labels.max()}"
