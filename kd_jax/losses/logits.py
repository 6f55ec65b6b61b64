"""Losses on logits. Arrays in, one value an example out; always called by keyword.

All are computed in float32 (or wider) from log-softmax, and none detaches an argument:
whether a teacher receives gradient is decided where its outputs are made.
"""

import jax
import jax.numpy as jnp

from kd_jax.typing import Array

_HUGE = 1e30  # stands for infinity, so that 0 * log 0 and its gradient are 0 without a mask


def _wide(*logits: Array) -> list[Array]:
    """At least float32 (half precision loses the tails distillation is about), and finite."""
    dtypes = [jnp.promote_types(jnp.asarray(z).dtype, jnp.float32) for z in logits]
    return [jnp.clip(jnp.asarray(z).astype(d), -_HUGE, _HUGE) for z, d in zip(logits, dtypes, strict=True)]


def _kl(log_p: Array, log_q: Array) -> Array:
    """KL(p || q) over the last axis."""
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _positive(name: str, temperature) -> None:
    if isinstance(temperature, (int, float)) and not 0 < temperature < float("inf"):
        raise ValueError(f"{name}: temperature must be a finite number above 0, got {temperature}")


def cross_entropy(*, student: Array, labels: Array) -> Array:
    """Cross-entropy of the student's prediction with integer labels, in nats.

    Args:
      student: (B, K) logits.
      labels: (B,) integers in [0, K).

    Returns:
      (B,)
    """
    (student,) = _wide(student)
    log_p = jax.nn.log_softmax(student)
    return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def kd(*, student: Array, teacher: Array, temperature: Array | float = 4.0) -> Array:
    """Softened-logit loss T^2 KL(softmax(teacher / T) || softmax(student / T)).

    Summed over classes, one value an example. Nothing is detached.

    Args:
      student: (B, K) logits.
      teacher: (B, K) logits; infinite ones are read as 1e30, so a one-hot teacher is accepted.
      temperature: T > 0.

    Returns:
      (B,), at least 0 up to rounding.

    Raises:
      ValueError: a temperature that is not above 0.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015,
      arXiv 1503.02531.
    """
    _positive("kd", temperature)
    student, teacher = _wide(student, teacher)
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * _kl(log_p, log_q)


def _others(logits: Array, target: Array) -> Array:
    """log-softmax over the classes other than the target; the target's own p is 0. (B, K)."""
    return jax.nn.log_softmax(jnp.where(target, -2 * _HUGE, logits))


def _binary(logits: Array, target: Array) -> Array:
    """log-probabilities of the two events: target, any other. (B, 2)."""
    log_p = jax.nn.log_softmax(logits)
    hit = jnp.sum(jnp.where(target, log_p, 0), axis=-1)
    rest = jax.nn.logsumexp(jnp.where(target, -2 * _HUGE, log_p), axis=-1)
    return jnp.stack([hit, rest], axis=-1)


def dkd(
    *,
    student: Array,
    teacher: Array,
    labels: Array,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: Array | float = 4.0,
) -> Array:
    """Decoupled distillation T^2 (alpha TCKD + beta NCKD).

    TCKD = KL(teacher || student) of the two events "target" and "not target"; NCKD = the same
    of the distribution over the other classes. Nothing is detached.

    Args:
      student: (B, K) logits, K >= 3.
      teacher: (B, K) logits.
      labels: (B,) integers in [0, K).
      alpha: weight of TCKD.
      beta: weight of NCKD; alpha = 1 and beta = 1 - p_teacher(target) per example would be KD.
      temperature: T > 0.

    Returns:
      (B,), at least 0 up to rounding for non-negative weights.

    Raises:
      ValueError: fewer than three classes (there is no distribution over "the others"), or a
        temperature that is not above 0.

    Reference: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022,
      arXiv 2203.08679.
    Differs: the published code masks the target by subtracting 1000 from its logit and takes
      log of summed probabilities; here both are exact, hence finite at any logit.
    """
    _positive("dkd", temperature)
    if student.shape[-1] < 3:
        raise ValueError(
            f"dkd: needs at least 3 classes, got {student.shape[-1]}: "
            "with two there is no distribution over the classes beside the target"
        )
    student, teacher = _wide(student, teacher)
    student, teacher = student / temperature, teacher / temperature
    target = jax.nn.one_hot(labels, student.shape[-1], dtype=bool)
    tckd = _kl(_binary(teacher, target), _binary(student, target))
    nckd = _kl(_others(teacher, target), _others(student, target))
    return temperature**2 * (alpha * tckd + beta * nckd)
