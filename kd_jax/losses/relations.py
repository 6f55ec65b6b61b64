"""Losses on relations between the examples of a batch. Arrays in, one value a batch out; always called by keyword.

All are computed in float32 (or wider), and none detaches an argument. What is compared is B x B (or larger), so
that the two networks' features may have different widths, except in `cc`.
"""

import jax.numpy as jnp

from kd_jax.losses.common import distances, gram, l2_norm, l2_normalize, upcast
from kd_jax.typing import Array, InputError


def sp(*, student: Array, teacher: Array) -> Array:
    """Similarity-preserving: the squared difference of row-normalised Gram matrices, divided by their size.

        sum((g(student) - g(teacher))^2) / B^2,   g(f) = rows of f f^T, each divided by its L2 norm

    with f flattened to (B, *). Nothing is detached.

    Args:
      student: (B, ...), maps or vectors.
      teacher: (B, ...), of any other shape.

    Returns:
      (), in [0, 4 / B].

    Raises:
      ValueError: different numbers of examples.

    Reference: Tung, Mori, "Similarity-Preserving Knowledge Distillation", 2019, arXiv 1907.09682.
    """
    grams = [l2_normalize(gram(f)) for f in _rows("sp", student, teacher)]
    return jnp.mean((grams[0] - grams[1]) ** 2)


def rkd(
    *,
    student: Array,
    teacher: Array,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    squared: bool = False,
) -> Array:
    """Relational distillation: distances of pairs and angles of triplets are to be the teacher's.

        distance_weight mean_ij h(d_ij(s) - d_ij(t)) + angle_weight mean_ijk h(a_ijk(s) - a_ijk(t))

    d: Euclidean distances divided by their mean over i != j. a_ijk: cosine of the angle at i between j and k, 0 where
    one of these is at the same place as i. h(x) = x^2 / 2 where |x| < 1, else |x| - 1/2. Both means are over all
    indices, equal ones too. Nothing is detached.

    The angles take memory for B^3 cosines and B^2 D differences, for each network, and about as much again in the
    backward pass.

    Args:
      student: (B, D), B >= 2.
      teacher: (B, D'), any width.
      distance_weight: a number; 0 leaves the distances out.
      angle_weight: a number; 0 leaves the angles out, and their memory.
      squared: take squared distances.

    Returns:
      (), at least 0 for weights that are not negative.

    Raises:
      InputError: fewer than two examples.
      ValueError: different numbers of examples.

    Reference: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019, arXiv 1904.05068.
    Differs: as in the published code, a distance is at least 1e-6 (squared 1e-12) before the mean. Where two examples
      are equal, the angles have gradient 0 here and 1e12 there.
    """
    pair = _rows("rkd", student, teacher, least=2)
    total = 0.0
    if distance_weight:
        s, t = (d / (jnp.sum(d) / (len(d) * (len(d) - 1))) for d in (distances(f, squared=squared) for f in pair))
        total += distance_weight * jnp.mean(_smooth_l1(s - t))
    if angle_weight:
        s, t = (gram(l2_normalize(f - f[:, None])) for f in pair)
        total += angle_weight * jnp.mean(_smooth_l1(s - t))
    return jnp.asarray(total, jnp.result_type(*pair))


def cc(*, student: Array, teacher: Array) -> Array:
    """Correlation congruence, as published: products of the differences of neighbours in the batch.

        mean_{b < B - 1} sum_d |s_bd - t_bd| |s_{b+1,d} - t_{b+1,d}|

    Nothing is detached.

    Args:
      student: (B, D) embeddings, B >= 2, in the order of the batch, which matters.
      teacher: (B, D).

    Returns:
      (), at least 0.

    Raises:
      InputError: fewer than two examples.
      ValueError: embeddings of different shapes.

    Reference: Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang, "Correlation Congruence for Knowledge Distillation", 2019,
      arXiv 1904.01802.
    Differs: the paper compares B x B matrices of a kernel, the same for both networks; this is the re-implementation
      in the RepDistiller benchmark, said there to be restructured from the authors' code.
    """
    student, teacher = _rows("cc", student, teacher, least=2)
    if student.shape != teacher.shape:
        raise ValueError(f"cc: embeddings of one shape wanted, got {student.shape} and {teacher.shape}")
    gap = jnp.abs(student - teacher)
    return jnp.mean(jnp.sum(gap[:-1] * gap[1:], axis=-1))


def pkt(*, student: Array, teacher: Array) -> Array:
    """Probabilistic knowledge transfer: KL(teacher || student) of the examples' similarities in the batch.

        mean_ij q_ij log((q_ij + e) / (p_ij + e)),   p_ij = k_ij / sum_j k_ij,   k = (1 + cosine) / 2,   e = 1e-7

    p is the student's, q the teacher's. The mean is over all B^2 pairs: the KL of a row divided by B, averaged.
    Nothing is detached.

    Args:
      student: (B, D).
      teacher: (B, D'), any width.

    Returns:
      (), at least 0 up to rounding and e.

    Raises:
      ValueError: different numbers of examples.

    Reference: Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", 2018,
      arXiv 1803.10837.
    Differs: as in the published code, vectors are divided by their length plus e, and the pair of an example with
      itself counts. A vector of zeros has gradient 0 here and NaN there; a NaN in the features gives NaN.
    """
    p, q = (_resemblance(f) for f in _rows("pkt", student, teacher))
    return jnp.mean(q * jnp.log((q + 1e-7) / (p + 1e-7)))


def _rows(name: str, student: Array, teacher: Array, least: int = 1) -> list[Array]:
    """Both flattened to (B, *)."""
    if len(student) != len(teacher):
        raise ValueError(f"{name}: as many examples of one as of the other wanted, got {len(student)}, {len(teacher)}")
    if len(student) < least:
        raise InputError(f"{name}: needs at least {least} examples in a batch, got {len(student)}")
    return [f.reshape(len(f), -1) for f in upcast(student, teacher)]


def _smooth_l1(x: Array) -> Array:
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * x**2, size - 0.5)


def _resemblance(x: Array) -> Array:
    """(B, B), rows that sum to 1."""
    norm = l2_norm(x)
    cosines = gram(x * jnp.where(norm == 0, 0.0, 1 / (norm + 1e-7)))
    kernel = jnp.maximum((cosines + 1) / 2, 0.0)  # rounding takes a cosine below -1, and the log of p + e to NaN
    return kernel / jnp.sum(kernel, axis=1, keepdims=True)
