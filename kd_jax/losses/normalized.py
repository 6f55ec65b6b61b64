"""NKD: the label by the teacher's probability of it, the other classes by themselves."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergence import among, check_temperature, finite, kl, one_hot, squared
from kd_jax.typing import Array


def nkd(
    *,
    student: Array,
    teacher: Array,
    labels: Array,
    raw_teacher: Array | None = None,
    gamma: float = 1.5,
    temperature: Array | float = 1.0,
    divergence: bool = False,
) -> Array:
    """Normalised knowledge distillation.

        - p_label log softmax(student)_label  -  gamma T^2 sum over c != label of p'_c log q'_c

    p is the raw teacher's distribution; p' and q' are those of teacher and student over the classes other than the
    label, at T. Both parts are cross-entropies: the loss is not 0 where student and teacher agree. Nothing is detached.

    Args:
      student: (B, K) logits, K >= 2; with 2 the second part is 0.
      teacher: (B, K) logits that are matched.
      labels: (B,) integers in [0, K).
      raw_teacher: (B, K) logits that say p_label; None takes `teacher`.
      gamma: weight of the second part.
      temperature: T > 0, () or (B, 1), of the second part.
      divergence: take KL(p' || q') in the second part. The student's gradient is the same; a teacher's side that is
        itself trained would lower its entropy by the cross-entropy.

    Returns:
      (B,), at least 0 for gamma >= 0.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
      Approach with Normalized Loss and Customized Soft Labels", 2023, arXiv 2303.13005.
    Differs: `divergence` is ours.
    """
    check_temperature("nkd", temperature)
    label = one_hot(labels, student)
    raw, plain = finite(teacher if raw_teacher is None else raw_teacher, student)
    p, q = jax.nn.softmax(raw), jax.nn.log_softmax(plain)
    target = -jnp.sum(jnp.where(label, p * q, 0.0), axis=-1)
    log_p, log_q = (among(z, ~label) for z in finite(teacher, student, temperature=temperature))
    entropy = -jnp.sum(jnp.where(label, 0.0, jnp.exp(log_p) * log_p), axis=-1)
    return target + gamma * squared(temperature) * (kl(log_p, log_q) + (0.0 if divergence else entropy))
