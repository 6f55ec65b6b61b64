"""RLD: what a teacher says of classes that it puts above the label is not taught."""

import jax.numpy as jnp

from kd_jax.losses.divergence import among, check_temperature, finite, kl, one_hot, squared, two_events
from kd_jax.typing import Array


def rld(
    *,
    student: Array,
    teacher: Array,
    labels: Array,
    raw_teacher: Array | None = None,
    alpha: float = 1.0,
    beta: float = 4.0,
    temperature: Array | float = 4.0,
    confidence_temperature: Array | float = 1.0,
) -> Array:
    """Refined logits: the teacher's confidence without its mistakes, and the order of the classes that it puts below
    the label.

        alpha SCD + beta MCD
        SCD = a^2 KL([P, 1 - P] || [Q, 1 - Q]),   P = max softmax(raw teacher / a),   Q = softmax(student / a)_label
        MCD = T^2 KL(softmax over M of teacher / T || softmax over M of student / T)
        M = classes whose logit is below the label's, by the raw teacher

    A teacher that is wrong still says how sure it is, without saying of what; ties with the label are not in M. An
    example whose M is empty or has one class has MCD = 0. Nothing is detached.

    Args:
      student: (B, K) logits, K >= 2.
      teacher: (B, K) logits that are matched.
      labels: (B,) integers in [0, K).
      raw_teacher: (B, K) logits that say P and M; None takes `teacher`.
      alpha: weight of SCD. beta: weight of MCD.
      temperature: T > 0, () or (B, 1).
      confidence_temperature: a > 0, likewise.

    Returns:
      (B,), at least 0 for non-negative weights.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Sun, Wang, et al., "Knowledge Distillation with Refined Logits", 2024, arXiv 2408.07703.
    Differs: the published code sums probabilities before it takes their log, which is infinite for logits far apart;
      here it is exact.
    """
    check_temperature("rld", temperature)
    check_temperature("rld", confidence_temperature, "confidence_temperature")
    raw, a = teacher if raw_teacher is None else raw_teacher, confidence_temperature
    label, top = one_hot(labels, student), one_hot(jnp.argmax(raw, axis=-1), student)
    sure_teacher, sure_student = finite(raw, student, temperature=a)
    scd = kl(two_events(sure_teacher, top), two_events(sure_student, label))
    at_label = jnp.take_along_axis(raw, labels[..., None], axis=-1)
    below = raw < at_label
    mcd = kl(*(among(z, below) for z in finite(teacher, student, temperature=temperature)))
    return alpha * squared(a) * scd + beta * squared(temperature) * mcd
