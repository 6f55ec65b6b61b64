"""Random keys by name."""

from zlib import crc32

import jax

from kd_jax.typing import Array


def fold(key: Array, name: str) -> Array:
    """The key of `name` below another key.

    Names take the place of small numbers: `fold_in(key, 1)` equals the second half of `split(key)`, so that a number
    can give the same random bits twice.
    """
    return jax.random.fold_in(key, crc32(name.encode()))
