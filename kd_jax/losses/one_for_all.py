"""OFA: a cross-entropy with the teacher that says the more of the label, the surer the teacher is of it."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergence import check_temperature, finite, one_hot
from kd_jax.typing import Array


def ofa(
    *,
    student: Array,
    teacher: Array,
    labels: Array,
    power: float = 1.0,
    temperature: Array | float = 1.0,
    all_classes: bool = False,
) -> Array:
    """One for all.

        - ((1 + p_label)^power - 1) log q_label  -  sum over c != label of p_c log q_c

    p and q are the distributions of teacher and student at T; there is no T^2. With power 1 it is their cross-entropy,
    whose gradient is KL's. It is not 0 where they agree. Nothing is detached.

    Args:
      student: (B, K) logits.
      teacher: (B, K) logits.
      labels: (B,) integers in [0, K).
      power: > 0, gamma of the paper; from 1 to 1.5 as published.
      temperature: T > 0, () or (B, 1).
      all_classes: raise p_c of the other classes to `power` too, as the published code does.

    Returns:
      (B,), at least 0.

    Raises:
      InputError: a power or a temperature that is not above 0.

    Reference: Hao, Guo, Han, Hu, Xu, Wang, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in
      Knowledge Distillation", 2023, arXiv 2310.19444.
    Differs: the paper's formula holds the task's cross-entropy too, which is `ce` here, as in the published code.
    """
    check_temperature("ofa", temperature)
    check_temperature("ofa", power, "power")
    log_q, log_p = (jax.nn.log_softmax(z) for z in finite(student, teacher, temperature=temperature))
    label, p = one_hot(labels, student), jnp.exp(log_p)
    others = jnp.exp(power * log_p) if all_classes else p
    return -jnp.sum(jnp.where(label, (1 + p) ** power - 1, others) * log_q, axis=-1)
