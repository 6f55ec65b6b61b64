"""CRLD: two views of a batch, each with the teacher on itself and on the other one."""

import jax
import jax.numpy as jnp

from kd_jax.losses.common import upcast
from kd_jax.losses.logits import kd
from kd_jax.typing import Array


def crld(
    *,
    student: Array,
    teacher: Array,
    student_strong: Array,
    teacher_strong: Array,
    raw_teacher: Array | None = None,
    raw_teacher_strong: Array | None = None,
    within: float = 2.0,
    cross: float = 0.5,
    temperature: Array | float = 4.0,
    weak_confidence: float = 0.9,
    strong_confidence: float = 0.2,
) -> Array:
    """Cross-view consistency regularisation.

        within m_w (KD(S_w, T_w) + KD(S_s, T_s)) + cross m_s (KD(S_s, T_w) + KD(S_w, T_s))
        m_w = whether max softmax(raw teacher, weak view) >= weak_confidence;   m_s likewise of the strong view

    KD = T^2 KL, student first. Nothing is detached; the masks have no gradient.

    Args:
      student, teacher: (B, K) logits of the weak view, refined or not.
      student_strong, teacher_strong: (B, K), of the strong view of the same examples.
      raw_teacher, raw_teacher_strong: (B, K) logits that say how sure the teacher is; None: teacher, teacher_strong.
      within, cross: weights of the two parts.
      temperature: T > 0, () or (B, 1).
      weak_confidence, strong_confidence: in [0, 1], the least confidence that counts.

    Returns:
      (B,), at least 0 for non-negative weights.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Zhang et al., "Cross-View Consistency Regularisation for Knowledge Distillation", 2024, arXiv 2412.16493.
    Differs: which mask goes with which term is the published code's; the paper's equations were not read.
    """
    sure = _sure(teacher if raw_teacher is None else raw_teacher, weak_confidence)
    sure_strong = _sure(teacher_strong if raw_teacher_strong is None else raw_teacher_strong, strong_confidence)

    def of(student, teacher):
        return kd(student=student, teacher=teacher, temperature=temperature)

    same = of(student, teacher) + of(student_strong, teacher_strong)
    other = of(student_strong, teacher) + of(student, teacher_strong)
    return within * sure * same + cross * sure_strong * other


def _sure(teacher: Array, least: float) -> Array:
    """(B,) of 0 and 1."""
    (z,) = upcast(teacher)
    return (jnp.max(jax.nn.softmax(z), axis=-1) >= least).astype(z.dtype)
