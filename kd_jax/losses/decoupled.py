"""KD in two parts, as DeepKD takes them apart: the target class, and the other classes or the first few of them."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergence import check_temperature, finite, one_hot, squared, target_and_rest
from kd_jax.typing import Array


def decoupled(
    *,
    student: Array,
    teacher: Array,
    labels: Array,
    temperature: Array | float = 4.0,
    count: Array | int | None = None,
    raw_teacher: Array | None = None,
) -> tuple[Array, Array]:
    """The parts of DKD (kd_jax.losses.dkd).

        target = T^2 KL of the two events "target" and "not target"
        rest   = T^2 KL of the distributions over the classes that count, the label left out

    KD is target + (1 - p_teacher(label)) rest, where all classes count. Nothing is detached.

    Args:
      student: (B, K) logits, K >= 2.
      teacher: (B, K) logits that are matched.
      labels: (B,) integers in [0, K).
      temperature: T > 0, () or (B, 1).
      count: the classes to which the raw teacher gives the most count, the label among these; None: all. An example
        of which the label alone is left has rest = 0.
      raw_teacher: (B, K) logits that order the classes; None takes `teacher`.

    Returns:
      (target, rest), each (B,) and at least 0.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Huang et al., "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer", 2025, arXiv
      2505.15133.
    """
    check_temperature("decoupled", temperature)
    student_z, teacher_z = finite(student, teacher, temperature=temperature)
    label = one_hot(labels, student)
    classes = ~label
    if count is not None:
        order = jnp.argsort(-(teacher if raw_teacher is None else raw_teacher), axis=-1)
        classes &= jnp.argsort(order, axis=-1) < count
    target, rest = target_and_rest(student_z, teacher_z, label, classes)
    return squared(temperature) * target, squared(temperature) * rest


def left_for_others(*, teacher: Array, labels: Array, temperature: Array | float) -> Array:
    """(B,): 1 - softmax(teacher / T) of the label."""
    (z,) = finite(teacher, temperature=temperature)
    return jnp.sum(jnp.where(one_hot(labels, z), 0.0, jax.nn.softmax(z)), axis=-1)
