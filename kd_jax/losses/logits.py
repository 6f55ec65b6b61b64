"""Losses on logits, and LSKD's standardisation of logits. Losses are always called by keyword.

A loss returns one value for each example; DIST returns one value for the batch. All are computed in float32 (or wider)
from log-softmax, and none detaches an argument: the code that computes the teacher's outputs detaches them.
"""

import jax
import jax.numpy as jnp

from kd_jax.losses.common import l2_norm, upcast
from kd_jax.losses.divergence import check_temperature, finite, kl, one_hot, squared, target_and_rest
from kd_jax.typing import Array, InputError


def cross_entropy(*, student: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Cross-entropy of the student's prediction with labels, in nats.

        -log softmax(student)_label,   or   -sum_c y_c log softmax(student)_c

    Args:
      student: (B, K) logits.
      labels: (B,) integers in [0, K), or y, (B, K) shares of the classes.
      smoothing: in [0, 1), the share of a label that is spread evenly over all classes, the label's own included.

    Returns:
      (B,)

    Raises:
      InputError: a smoothing out of range.
    """
    if not 0 <= smoothing < 1:
        raise InputError(f"cross_entropy: smoothing must be at least 0 and below 1, got {smoothing}")
    (student,) = finite(student)
    log_p = jax.nn.log_softmax(student)
    if jnp.ndim(labels) < 2:
        value = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    else:
        value = -jnp.sum(jnp.where(labels > 0, labels * log_p, 0.0), axis=-1)
    return value if not smoothing else (1 - smoothing) * value - smoothing * jnp.mean(log_p, axis=-1)


def kd(*, student: Array, teacher: Array, temperature: Array | float = 4.0) -> Array:
    """Softened-logit loss: the divergence of the student's softened prediction from the teacher's.

        T^2 KL(softmax(teacher / T) || softmax(student / T))

    Summed over classes, one value an example. Nothing is detached.

    Args:
      student: (B, K) logits.
      teacher: (B, K) logits; infinite ones are read as 1e30, so a one-hot teacher is accepted.
      temperature: T > 0, () or (B, 1).

    Returns:
      (B,), at least 0.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015,
      arXiv 1503.02531.
    """
    check_temperature("kd", temperature)
    log_q, log_p = (jax.nn.log_softmax(z) for z in finite(student, teacher, temperature=temperature))
    return squared(temperature) * kl(log_p, log_q)


def dkd(
    *,
    student: Array,
    teacher: Array,
    labels: Array,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: Array | float = 4.0,
) -> Array:
    """Decoupled distillation: the target class and the distribution over the other classes as separate parts.

        T^2 (alpha TCKD + beta NCKD)

    TCKD = KL(teacher || student) of the two events "target" and "not target"; NCKD = the same
    of the distribution over the other classes. Nothing is detached.

    Args:
      student: (B, K) logits, K >= 3.
      teacher: (B, K) logits.
      labels: (B,) integers in [0, K).
      alpha: weight of TCKD.
      beta: weight of NCKD; alpha = 1 and beta = 1 - p_teacher(target) per example would be KD.
      temperature: T > 0, () or (B, 1).

    Returns:
      (B,), at least 0 for non-negative weights.

    Raises:
      InputError: fewer than three classes (there is no distribution over "the others"), or a
        temperature that is not above 0.

    Reference: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022,
      arXiv 2203.08679.
    Differs: the published code masks the target by subtracting 1000 from its logit and takes
      log of summed probabilities; here both are exact, hence finite at any logit.
    """
    check_temperature("dkd", temperature)
    if student.shape[-1] < 3:
        raise InputError(
            f"dkd: needs at least 3 classes, got {student.shape[-1]}: "
            "with two there is no distribution over the classes beside the target"
        )
    student, teacher = finite(student, teacher, temperature=temperature)
    target = one_hot(labels, student)
    tckd, nckd = target_and_rest(student, teacher, target, ~target)
    return squared(temperature) * (alpha * tckd + beta * nckd)


def _pearson(x: Array, y: Array, axis: int) -> Array:
    """Pearson correlation along an axis, which the result does not have; 0 where one of the two is constant."""
    x, y = (v - jnp.mean(v, axis=axis, keepdims=True) for v in (x, y))
    lengths = l2_norm(x, axis) * l2_norm(y, axis)
    return jnp.sum(x * y, axis=axis) / (jnp.squeeze(lengths, axis) + 1e-8)


def dist(
    *,
    student: Array,
    teacher: Array,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: Array | float = 1.0,
) -> Array:
    """DIST: the probabilities of student and teacher are to correlate, not to be equal.

        T^2 (beta (1 - mean_b r(p_b, q_b)) + gamma (1 - mean_k r(p^k, q^k)))

    with p = softmax(student / T), q = softmax(teacher / T) and Pearson's correlation r: of an example over its classes
    (inter-class), and of a class over the examples of the batch (intra-class). Nothing is detached.
    Under parallel.scope="device" each device compares only its own examples, in scope "global" the whole batch.

    Args:
      student: (B, K) logits; with B = 1 or K = 1 a correlation is 0 by definition.
      teacher: (B, K) logits.
      beta: weight of the inter-class part.
      gamma: weight of the intra-class part.
      temperature: T > 0, one for all examples.

    Returns:
      (), in [0, 2 T^2 (beta + gamma)] up to rounding, for weights that are not negative.

    Raises:
      InputError: a temperature that is not above 0, or one for each example.

    Reference: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", 2022,
      arXiv 2205.10536.
    Differs: as in the published code, 1e-8 is added to the product of the two lengths, and T^2 multiplies both
      parts; its code for segmentation has no temperature.
    """
    check_temperature("dist", temperature)
    if jnp.ndim(temperature) > 1:
        raise InputError(
            "dist: compares a class over the batch, at one temperature; a refiner set one for each example; accepted: "
            "a temperature of dist's alone"
        )
    p, q = (jax.nn.softmax(z) for z in finite(student, teacher, temperature=temperature))
    inter, intra = (1 - jnp.mean(_pearson(p, q, axis)) for axis in (1, 0))
    return temperature**2 * (beta * inter + gamma * intra)


def standardize(logits: Array) -> Array:
    """Logits with mean 0 and deviation 1 over the classes: (z - mean(z)) / (std(z) + 1e-7), std unbiased.

    This is no loss: LSKD standardises both sides of the pair before a loss reads them. The result does not depend on
    shift or (positive) scale of z. Nothing is detached.

    Args:
      logits: (B, K), K >= 2; infinite ones are read as 1e15.

    Returns:
      (B, K), at least float32; a row of equal logits becomes 0, up to rounding.

    Raises:
      InputError: fewer than two classes.

    Reference: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", 2024,
      arXiv 2403.01427.
    Differs: as in the published code, the deviation is the unbiased one, over K - 1. At a row of equal logits the
      gradient is finite here and NaN there.
    """
    z, spread = _centred("standardize", logits)
    return z / spread


def deviation(logits: Array) -> Array:
    """Of logits (B, K) the unbiased standard deviation over the classes + 1e-7, (B, 1), at least float32.

    Raises:
      InputError: fewer than two classes.
    """
    return _centred("deviation", logits)[1]


def _centred(name: str, logits: Array) -> tuple[Array, Array]:
    if logits.shape[-1] < 2:
        raise InputError(f"{name}: needs at least 2 classes, got {logits.shape[-1]}")
    (z,) = upcast(logits)
    z = jnp.clip(z, -1e15, 1e15)  # so that squares are finite in float32
    z = z - jnp.mean(z, axis=-1, keepdims=True)
    return z, l2_norm(z) / (z.shape[-1] - 1) ** 0.5 + 1e-7
