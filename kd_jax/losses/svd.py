"""The loss on singular vectors of feature maps. Arrays in, one value an example out; always called by keyword.

Computed in float32 (or wider); nothing is detached.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd_jax.losses.common import check_same_length, gram, l2_normalize, to_common_size
from kd_jax.typing import Array, InputError

CANDIDATES = 3  # so many more vectors are compared of the student than of the teacher
NOISE = 8  # times the machine epsilon: eigenvalues that differ by less, of a matrix of trace 1, are equal


def kdsvd(*, students: Sequence[Array], teachers: Sequence[Array], k: int = 1) -> Array:
    """Distillation by singular vectors: the relation of one stage's vectors to those of the stage before.

        sum over i > 1 of || r(v^S_i, v^S_{i-1}) - r(v^T_i, v^T_{i-1}) ||^2,   r(a, b) = exp(-(a_x - b_y)^2 / 8)

    for every pair of entries x, y and each of k vectors. A map is read as a matrix with a column for every x of its
    width and a row for every channel and y. v^T are its first k right singular vectors, each times its singular
    value divided by the L2 norm of the k values. For each of them, v^S is that of the student's first k + 3 vectors
    whose cosine with it has the largest size, with the sign of that cosine, times the teacher's factor. Nothing is
    detached.

    Args:
      students: L >= 2 maps (B, H, W, C), exactly the stages compared, in order.
      teachers: L maps (B, H, W, C); their sizes and widths may be others.
      k: >= 1, at most the width of the narrowest map, and at most H C.

    Returns:
      (B,)

    Raises:
      ValueError: fewer than two stages, or not as many of one as of the other.
      InputError: k out of range.

    Reference: Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", 2018,
      arXiv 1807.06819.
    Differs: the matrix is that of mdistiller; the paper and RepDistiller have a row for every place and a column for
      every channel. A decomposition leaves the sign of a vector open, and the value depends on it. Here the entries of
      the teacher's vectors sum to at least 0. Behind a ReLU all entries of the first vector have one sign; so any
      decomposition that gives these vectors the same sign gives the same value. Of maps that differ in size, the larger
      is average-pooled before; that code cannot compare them. Values that are not finite are not replaced by 0. The
      gradient is that of the singular vectors, but finite where singular values are equal, or 0.
    """
    check_same_length("kdsvd", students, teachers, least=2, wanted="two or more maps, as many of one as of the other")
    pairs = [to_common_size(*pair) for pair in zip(students, teachers, strict=True)]
    largest = min(min(x.shape[2], x.shape[1] * x.shape[3]) for pair in pairs for x in pair)
    if k != int(k) or not 1 <= k <= largest:
        raise InputError(f"kdsvd: k must be a whole number from 1 to {largest}, what the smallest map has, got {k}")
    total, before = 0.0, None
    spectra = iter(_right_singular([x for pair in pairs for x in pair]))
    for spectrum in zip(spectra, spectra, strict=True):
        now = _vectors(*spectrum, int(k))
        if before:
            student, teacher = map(_relate, now, before)
            total += jnp.sum((student - teacher) ** 2, axis=(1, 2, 3))
        before = now
    return total


def _vectors(student: tuple[Array, Array], teacher: tuple[Array, Array], k: int) -> tuple[Array, Array]:
    """Both (B, W, k), the student's aligned with the teacher's."""
    ours, squares, theirs = student[1][..., : k + CANDIDATES], teacher[0][:, :k], teacher[1][..., :k]
    theirs *= jnp.where(jnp.sum(theirs, axis=1, keepdims=True) < 0, -1.0, 1.0)
    cosines = gram(ours.swapaxes(1, 2), theirs.swapaxes(1, 2))
    size = jnp.abs(cosines)
    chosen = jnp.where(size == jnp.max(size, axis=1, keepdims=True), jnp.sign(cosines), 0.0)
    some = squares > NOISE * jnp.finfo(squares.dtype).eps
    factor = l2_normalize(jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0))[:, None]
    return gram(ours, chosen.swapaxes(1, 2)) * factor, theirs * factor


def _right_singular(maps: list[Array]) -> list[tuple[Array, Array]]:
    """Decomposes maps (B, H, W, C). Each gives N = min(W, H C) squared singular values (B, N), the largest first,
    relative to the sum of all, and N right singular vectors (B, W, N).

    One decomposition serves all maps: XLA's CPU runtime can hang where two run at once on few cores (jaxlib 0.10).
    """
    widest = max(x.shape[2] for x in maps)
    grams = []
    for x in maps:
        b, _, w, _ = x.shape
        columns = gram(l2_normalize(x.swapaxes(1, 2).reshape(b, w, -1), axis=(1, 2)))
        padding = jnp.diag(-(jnp.arange(widest) >= w).astype(columns.dtype))  # its eigenvalues come last
        grams.append(padding + jnp.pad(columns, ((0, 0), (0, widest - w), (0, widest - w))))
    values, vectors = _spectrum(jnp.stack(grams))
    counts = [min(x.shape[2], x.shape[1] * x.shape[3]) for x in maps]
    return [(values[i, :, :n], vectors[i, :, : maps[i].shape[2], :n]) for i, n in enumerate(counts)]


@jax.custom_jvp
def _spectrum(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues (..., N) of symmetric matrices, the largest first, and eigenvectors in columns (..., N, N)."""
    values, vectors = jnp.linalg.eigh(-matrix)
    return -values, vectors


@_spectrum.defjvp
def _spectrum_jvp(primals, tangents):
    """The derivative does not turn vectors of equal eigenvalues into each other: their directions are arbitrary."""
    values, vectors = _spectrum(*primals)
    turned = jnp.einsum("...ji,...jk,...kl->...il", vectors, tangents[0], vectors, precision="highest")
    gaps = values[..., None, :] - values[..., :, None]
    apart = jnp.abs(gaps) > NOISE * jnp.finfo(values.dtype).eps
    turned_apart = jnp.where(apart, turned, 0.0) / jnp.where(apart, gaps, 1.0)
    moved = jnp.einsum("...ij,...jk->...ik", vectors, turned_apart, precision="highest")
    return (values, vectors), (jnp.diagonal(turned, axis1=-2, axis2=-1), moved)


def _relate(now: Array, before: Array) -> Array:
    """(B, W, k) and (B, V, k) to (B, W, V, k)."""
    return jnp.exp(-((now[:, :, None] - before[:, None]) ** 2) / 8)
