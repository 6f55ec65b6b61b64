"""Losses on feature maps (B, H, W, C). Arrays in, one value an example out; always called by keyword.

All are computed in float32 (or wider), and none detaches an argument. A layer that learns to give a student's map the
teacher's shape belongs to the method.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from kd_jax.losses.common import (
    attention,
    check_integer,
    check_same_length,
    check_same_shape,
    gram,
    l2_normalize,
    mean_square,
    pool_to,
    to_common_size,
    upcast,
)
from kd_jax.typing import Array, InputError


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
    Differs: the paper has half the squared norm, summed over the map; the published re-implementations have the mean,
      as here. The mask is SoKD's.
    """
    check_same_shape("fitnet", student, teacher)
    if mask is not None and mask.shape != (*student.shape[:-1], 1):
        raise ValueError(f"fitnet: a mask {(*student.shape[:-1], 1)} wanted, got {mask.shape}")
    student, teacher = upcast(student, teacher)
    return mean_square(student - teacher if mask is None else mask * (student - teacher))


def at(*, students: Sequence[Array], teachers: Sequence[Array], p: int = 2) -> Array:
    """Attention transfer: the squared difference of normalised attention maps, summed over stages.

        sum over stages of mean( (a(f_S) - a(f_T))^2 ),   a(f) = flat(mean_c f^p) / its L2 norm

    The attention map of a feature map is the mean of its p-th power over channels, flattened and divided by its
    L2 norm. Of two maps that differ in size, the larger is average-pooled before. Nothing is detached.

    Args:
      students: L maps (B, H, W, C), exactly the stages compared.
      teachers: L maps (B, H, W, C); their sizes and widths may be others.
      p: >= 1, whole.

    Returns:
      (B,): of every stage the mean over the H W positions, then the sum over stages.

    Raises:
      ValueError: no stages, or not as many of one as of the other.
      InputError: p out of range.

    Reference: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of
      Convolutional Neural Networks via Attention Transfer", 2017, arXiv 1612.03928.
    Differs: as in the published code, the mean over positions where the paper has a norm, and no absolute value
      before an odd power. That code pools maps that are not square to a square; here each axis is pooled alone.
    """
    check_same_length("at", students, teachers)
    check_integer("at", p=p)
    total = 0.0
    for pair in zip(students, teachers, strict=True):
        s, t = (attention(f, p) for f in to_common_size(*pair))
        total += mean_square(s - t)
    return total


def nst(*, students: Sequence[Array], teachers: Sequence[Array]) -> Array:
    """Neuron selectivity transfer: the squared maximum mean discrepancy of channels, summed over stages.

        mean k(t_i, t_j) + mean k(s_i, s_j) - 2 mean k(s_i, t_j),   k(a, b) = (a . b)^2

    s_i, t_j are the channels' maps, flattened and divided by their L2 norm; means are over all pairs of channels.
    Of two maps that differ in size, the larger is average-pooled before. Nothing is detached.

    Args:
      students: L maps (B, H, W, C), exactly the stages compared.
      teachers: L maps (B, H, W, C); their sizes and widths may be others.

    Returns:
      (B,), at least 0 up to rounding.

    Raises:
      ValueError: no stages, or not as many of one as of the other.

    Reference: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
      arXiv 1707.01219.
    Differs: the published code pools maps that are not square to a square; here each axis is pooled alone.
    """
    check_same_length("nst", students, teachers)
    return sum(_discrepancy(*to_common_size(*pair)) for pair in zip(students, teachers, strict=True))


def cat_kd(*, student: Array, teacher: Array, resolution: int = 2, normalize: bool = True) -> Array:
    """Class attention transfer: the mean squared difference of average-pooled class activation maps.

        mean( (n(pool(cam_S)) - n(pool(cam_T)))^2 ),   n(c) = c, or c divided by its L2 norm over places

    Nothing is detached.

    Args:
      student: (B, H, W, K), `Outputs.cam`.
      teacher: (B, H, W, K); its height and width may be others.
      resolution: >= 1, the height and width that both are pooled to. A map that is smaller is repeated; its size must
        divide the resolution.
      normalize: whether every pooled map of a class is divided by its L2 norm, as the published code's default is.

    Returns:
      (B,): the mean over places and classes.

    Raises:
      ValueError: maps of different numbers of classes.
      InputError: a resolution below 1, or one that a map cannot be pooled or repeated to.

    Reference: Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation", 2023, arXiv 2304.12777.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(f"cat_kd: maps of as many classes wanted, got {student.shape[-1]} and {teacher.shape[-1]}")
    if resolution < 1:
        raise InputError(f"cat_kd: resolution must be at least 1, got {resolution}")
    for size in {*student.shape[1:3], *teacher.shape[1:3]}:
        if size < resolution and resolution % size:
            raise InputError(f"cat_kd: resolution {resolution}: a map {size} high or wide is smaller, but no divisor")
    student, teacher = (pool_to(x, (resolution, resolution)) for x in upcast(student, teacher))
    if normalize:
        student, teacher = (l2_normalize(x, axis=(1, 2)) for x in (student, teacher))
    return mean_square(student - teacher)


def areas(*, student: Sequence[Array], teacher: Sequence[Array]) -> Array:
    """Mean squared difference of the outputs of the heads of kd_jax.layers.areas: SoKD's L_DAM. Nothing is detached.

    Args:
      student: heat, size and offset (or any maps of one size), each (B, H, W, *).
      teacher: the same of the teacher.

    Returns:
      (B,): the mean over all elements of all maps together, so that the heat's many channels have the most weight.

    Raises:
      ValueError: maps of different shapes.

    Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge
      Distillation", 2024, arXiv 2409.18785.
    """
    student, teacher = (jnp.concatenate([*maps], axis=-1) for maps in (student, teacher))
    check_same_shape("areas", student, teacher)
    student, teacher = upcast(student, teacher)
    return mean_square(student - teacher)


def _discrepancy(student: Array, teacher: Array) -> Array:
    """The squared maximum mean discrepancy (B,) of the channels of two maps of one size.

    The sum of (a . b)^2 over pairs of channels is the inner product of the two sums of a a^T. So the Gram matrix of
    channels and that of places give the same value; the smaller one is computed.
    """
    student, teacher = (l2_normalize(x.reshape(len(x), -1, x.shape[-1]), axis=1) for x in (student, teacher))
    if student.shape[1] <= max(student.shape[2], teacher.shape[2]):
        student, teacher = (gram(x) / x.shape[2] for x in (student, teacher))
        return jnp.sum((student - teacher) ** 2, axis=(1, 2))
    s, t = student.swapaxes(1, 2), teacher.swapaxes(1, 2)
    within, cross = (jnp.mean(gram(x) ** 2, axis=(1, 2)) for x in (s, t)), jnp.mean(gram(s, t) ** 2, axis=(1, 2))
    return sum(within) - 2 * cross
