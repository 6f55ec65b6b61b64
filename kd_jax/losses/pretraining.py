"""Losses of methods that train a part of the student, or a helper network, in a separate phase: AB, FSP and FT.

Arrays in, one value an example out; always called by keyword. All are computed in float32 (or wider), and none
detaches an argument. The layers belong to the methods.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from kd_jax.losses.common import (
    attention,
    check_integer,
    check_same_length,
    check_same_shape,
    gram,
    mean_square,
    to_common_size,
    upcast,
)
from kd_jax.typing import Array, InputError


def ab(
    *,
    students: Sequence[Array],
    teachers: Sequence[Array],
    margin: float = 1.0,
    masks: Sequence[Array | None] | None = None,
) -> Array:
    """Activation boundaries: before its ReLU, the student is to be on the teacher's side of 0, and a margin off it.

        3/1000 sum_i 2^-(L - i) sum over H, W and C of d(s, t)^2,   i = 1 .. L
        d = max(m - s, 0) where t > 0, else max(s + m, 0)

    Only the sign of the teacher's activation matters, not its size. Nothing is detached; the teacher's gradient is 0.

    Args:
      students: L maps (B, H, W, C) before their ReLU, exactly the stages compared.
      teachers: L maps of the same shapes, before their ReLU.
      margin: m, >= 0.
      masks: L of (B, H, W, 1), which multiply d, or None for a map without mask; None for no masks at all.

    Returns:
      (B,)

    Raises:
      ValueError: no maps, not as many of one as of another, different shapes.
      InputError: a margin below 0.

    Reference: Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
      Neurons", 2018, arXiv 1811.03233.
    Differs: the factor 3/1000 is the published code's; so is that every stage counts half as much as the next one.
    """
    masks = [None] * len(students) if masks is None else masks
    check_same_length("ab", students, teachers, masks)
    if not margin >= 0:
        raise InputError(f"ab: margin must be at least 0, got {margin}")
    total = 0.0
    for s, t, mask in zip(students, teachers, masks, strict=True):
        check_same_shape("ab", s, t)
        s, t = upcast(s, t)
        distance = jnp.maximum(jnp.where(t > 0, margin - s, s + margin), 0)
        distance = distance if mask is None else mask * distance
        total = total / 2 + jnp.sum(distance**2, axis=(1, 2, 3))
    return total * 3 / 1000


def fsp(*, students: Sequence[Array], teachers: Sequence[Array]) -> Array:
    """Flow of the solution procedure: the channels of one stage are to go with those of the next as the teacher's do.

        sum_i mean( (G_i(f_S) - G_i(f_T))^2 ),   G_i = mean over H and W of f_i f_(i+1)^T,   i = 1 .. L - 1

    G_i is a matrix, the channels of stage i by those of the next. Of two stages that differ in size, the larger is
    average-pooled before; so student and teacher may differ in size. Nothing is detached.

    Args:
      students: L >= 2 maps (B, H, W, C), in order.
      teachers: L maps of the same widths.

    Returns:
      (B,): of every pair of stages the mean over the matrix, then the sum over pairs.

    Raises:
      ValueError: fewer than two maps, not as many of one as of the other, other widths.

    Reference: Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
      Transfer Learning", 2017.
    Differs: the paper sums the squares over the matrix; the published re-implementation takes their mean, as here. That
      code pools stages that are not square to a square; here each axis is pooled alone.
    """
    check_same_length("fsp", students, teachers, least=2, wanted="two maps or more, as many of one as of the other")
    widths = [[f.shape[-1] for f in maps] for maps in (students, teachers)]
    if widths[0] != widths[1]:
        raise ValueError(f"fsp: maps of the same widths wanted, got {widths[0]} and {widths[1]}")
    return sum(mean_square(s - t) for s, t in zip(_flows(students), _flows(teachers), strict=True))


def ft(*, student: Array, teacher: Array, p1: int = 2, p2: int = 1) -> Array:
    """Factor transfer: the student's factors are to be active where the teacher's factors are.

        mean over H and W of |a(f_S) - a(f_T)|^p2,   a(f) = flat(mean_c f^p1) / its L2 norm

    Of two maps that differ in size, the larger is average-pooled before. Nothing is detached.

    Args:
      student: factors (B, H, W, *) of the translator.
      teacher: factors (B, H, W, *) of the paraphraser's encoder; its size and width may be others.
      p1: >= 1, whole.
      p2: >= 1, whole.

    Returns:
      (B,)

    Raises:
      InputError: p1 or p2 out of range.

    Reference: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      arXiv 1802.04977.
    Differs: the paper compares the factors themselves, divided by their norm; the published re-implementation first
      takes the mean of their p1-th power over channels, as here. For an odd p2 above 1 absolute values are taken here;
      that code leaves them out. It pools maps that are not square to a square; here each axis is pooled alone.
    """
    check_integer("ft", p1=p1, p2=p2)
    s, t = (attention(f, p1) for f in to_common_size(student, teacher))
    return jnp.mean(jnp.abs(s - t) ** int(p2), axis=1)


def _flows(maps: Sequence[Array]) -> list[Array]:
    """The flow from every stage to the next: (B, C of the next, C)."""
    flows = []
    for pair in zip(maps[:-1], maps[1:], strict=True):
        bottom, top = (f.reshape(len(f), -1, f.shape[-1]).swapaxes(1, 2) for f in to_common_size(*pair))
        flows.append(gram(top, bottom) / top.shape[-1])
    return flows
