"""Losses on feature maps (B, H, W, C). Arrays in, one value an example out; always called by keyword.

All are computed in float32 (or wider), and none detaches an argument. Maps are compared as they come: a layer
that learns to give a student's map the teacher's shape belongs to the method.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from kd_jax.losses.common import to_common_size, unit, wide
from kd_jax.typing import Array


def fitnet(*, student: Array, teacher: Array, mask: Array | None = None) -> Array:
    """Mean squared difference of two maps of one shape. Nothing is detached.

    Args:
      student: (B, H, W, C).
      teacher: (B, H, W, C).
      mask: (B, H, W, 1), multiplies both maps; None takes them whole. The mean is over all elements, masked
        or not.

    Returns:
      (B,); its mean is PyTorch's MSELoss of the two batches.

    Raises:
      ValueError: maps of different shapes, a mask of another size.

    Reference: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", 2015,
      arXiv 1412.6550.
    Differs: the paper has half the squared norm, summed over the map; this is the published re-implementations'
      mean. The mask is SoKD's.
    """
    return _mean_square("fitnet", student, teacher, mask)


def at(*, students: Sequence[Array], teachers: Sequence[Array], p: int = 2) -> Array:
    """Attention transfer: the squared difference of normalised attention maps, summed over stages.

    The attention map of a feature map is the mean of its p-th power over channels, flattened and divided by its
    L2 norm. Of two maps that differ in size, the larger is average-pooled before. Nothing is detached.

    Args:
      students: L maps (B, H, W, C), exactly the stages compared.
      teachers: L maps (B, H, W, C); their sizes and widths may be others.
      p: >= 1, whole.

    Returns:
      (B,): of every stage the mean over the H W positions, then the sum over stages.

    Raises:
      ValueError: no stages, or not as many of one as of the other; p out of range.

    Reference: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of
      Convolutional Neural Networks via Attention Transfer", 2017, arXiv 1612.03928.
    Differs: as in the published code, the mean over positions where the paper has a norm, and no absolute value
      before an odd power. Maps that are not square, which that code pools to a square, are pooled by axis.
    """
    if not len(students) == len(teachers) > 0:
        raise ValueError(f"at: needs as many maps of one as of the other, got {len(students)} and {len(teachers)}")
    if p < 1 or p != int(p):
        raise ValueError(f"at: p must be a whole number, at least 1, got {p}")
    total = 0.0
    for pair in zip(students, teachers, strict=True):
        s, t = (_attention(f, int(p)) for f in to_common_size(*pair))
        total += jnp.mean((s - t) ** 2, axis=-1)
    return total


def areas(*, student: Sequence[Array], teacher: Sequence[Array]) -> Array:
    """Mean squared difference of what the heads of kd_jax.layers.areas say: SoKD's L_DAM. Nothing is detached.

    Args:
      student: heat, size and offset (or any maps of one size), each (B, H, W, *).
      teacher: the same of the teacher.

    Returns:
      (B,): the mean over all elements of all maps together, so that the heat's many channels weigh most.

    Raises:
      ValueError: maps of different shapes.

    Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge
      Distillation", 2024, arXiv 2409.18785.
    """
    return _mean_square("areas", jnp.concatenate([*student], axis=-1), jnp.concatenate([*teacher], axis=-1))


def _mean_square(name: str, student: Array, teacher: Array, mask: Array | None = None) -> Array:
    """(B,): over all other axes."""
    if student.shape != teacher.shape:
        raise ValueError(f"{name}: maps of one shape wanted, got {student.shape} and {teacher.shape}")
    if mask is not None and mask.shape != (*student.shape[:-1], 1):
        raise ValueError(f"{name}: a mask {(*student.shape[:-1], 1)} wanted, got {mask.shape}")
    student, teacher = wide(student, teacher)
    difference = student - teacher if mask is None else mask * (student - teacher)
    return jnp.mean(difference**2, axis=tuple(range(1, difference.ndim)))


def _attention(x: Array, p: int) -> Array:
    """(B, H W), of length 1; a map of zeros stays 0."""
    return unit(jnp.mean(x**p, axis=-1).reshape(len(x), -1))
