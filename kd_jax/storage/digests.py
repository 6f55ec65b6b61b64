"""The digest of a tree: the same on every mesh, and computed where the values lie.

Every leaf is cut into pieces that its shape alone decides. A process hashes the pieces that its devices hold, each
piece in one place only, and the processes put their hashes together. Nothing is gathered, nothing is hashed twice.
"""

import hashlib
import math

import jax
import numpy as np
from jax.experimental import multihost_utils

from kd_jax.distributed import processes
from kd_jax.distributed.mesh import SMALL
from kd_jax.typing import PyTree

PIECES = 64  # of a leaf at most; split over 2, 4, ... 64 devices, a device holds whole pieces
KIND = 2  # of the digests that are written today; older checkpoints have `sequential` ones and no kind


def digest(tree: PyTree) -> str:
    """sha256 of a tree's paths, types, shapes and values. Every process calls it; all get the same.

    Args:
      tree: of numpy arrays, the same in every process, or of jax arrays in whatever parts.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    hashes = [_hashes(leaf) for _, leaf in leaves]
    if leaves and not all(_is_here(leaf) for _, leaf in leaves):
        hashes = np.split(processes.merge(np.concatenate(hashes)), np.cumsum([len(h) for h in hashes])[:-1])
    total = hashlib.sha256()
    for (path, leaf), pieces in zip(leaves, hashes, strict=True):
        total.update(_header(path, leaf) + pieces.tobytes())
    return total.hexdigest()


def sequential(tree: PyTree) -> str:
    """The digest that checkpoints of kind 1 have: sha256 of all bytes, leaf after leaf, on one host."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        total.update(_header(path, leaf))
        total.update(np.ascontiguousarray(_whole(leaf)).tobytes())
    return total.hexdigest()


OF_KIND = {1: sequential, KIND: digest}


def _header(path: tuple, leaf) -> bytes:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{jax.tree_util.keystr(path)}{dtype}{np.shape(leaf)}".encode()


def _hashes(leaf) -> np.ndarray:
    """(pieces, 32) uint8, zeros where another process hashes the piece."""
    shape = np.shape(leaf)
    axis, count = _pieces(shape)
    hashes = np.zeros((count, 32), np.uint8)
    length = shape[axis] // count if shape else 0
    for first, values in _parts(leaf, axis, length):
        for i, piece in enumerate(np.split(values, values.shape[axis] // length, axis) if length else [values], first):
            hashes[i] = np.frombuffer(hashlib.sha256(np.ascontiguousarray(piece).tobytes()).digest(), np.uint8)
    return hashes


def _pieces(shape: tuple[int, ...]) -> tuple[int, int]:
    """Along which axis a leaf is cut, and into how many pieces of one length."""
    if math.prod(shape) < SMALL:  # never split over devices
        return 0, 1
    axis = max(range(len(shape)), key=lambda i: shape[i])
    return axis, math.gcd(shape[axis], PIECES)


def _parts(leaf, axis: int, length: int):
    """What this process hashes: (number of the first piece, values of whole pieces), one part after the other."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
        places = leaf.sharding.devices_indices_map(leaf.shape).values()
        if all(_holds_pieces(index, leaf.shape, axis, length) for index in places):
            for shard in leaf.addressable_shards:
                if shard.replica_id == 0:
                    yield (shard.index[axis].start or 0) // length, np.asarray(shard.data)
            return
    whole = _whole(leaf)  # of parts in several processes a collective, so all of them are here
    if _is_here(leaf) or processes.is_main():
        yield 0, whole


def _holds_pieces(index: tuple[slice, ...], shape: tuple[int, ...], axis: int, length: int) -> bool:
    """Whether a shard is made of whole pieces."""
    for i, (cut, size) in enumerate(zip(index, shape, strict=True)):
        start, stop, _ = cut.indices(size)
        if i == axis and (start % length or stop % length):
            return False
        if i != axis and (start, stop) != (0, size):
            return False
    return True


def _is_here(leaf) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _whole(leaf) -> np.ndarray:
    """All of a leaf on the host; nothing is copied to other devices unless parts lie in other processes."""
    if _is_here(leaf):
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    return multihost_utils.process_allgather(leaf, tiled=True)
