"""WKD-L: how far probability has to be carried between classes, where classes that are alike are near each other."""

import jax
import jax.numpy as jnp

from kd_jax.losses.common import TINY, l2_normalize, upcast
from kd_jax.losses.divergence import among, check_temperature, finite, one_hot
from kd_jax.typing import Array, InputError

SOFTNESS = 0.05  # of the plan: costs are divided by it
GUARD = 1e-8  # the published code's, in the costs and in the scaling


def wkd_l(
    *,
    student: Array,
    teacher: Array,
    labels: Array,
    costs: Array,
    raw_teacher: Array | None = None,
    gamma: Array | float = 1.0,
    temperature: Array | float = 1.0,
    iterations: int = 10,
) -> Array:
    """The label by the teacher's probability of it, the other classes by the cost of carrying one network's
    distribution over into the other's.

        - p_label log softmax(student)_label  +  gamma transport(student, teacher)

    p is the raw teacher's distribution. `transport` is the function of that name; there is no T^2. The loss is not 0
    where student and teacher agree. Nothing is detached.

    Args:
      student: (B, K) logits, K >= 2; with 2 the second part is constant.
      teacher: (B, K) logits that are matched.
      labels: (B,) integers in [0, K).
      costs: (K, K), see `transport`.
      raw_teacher: (B, K) logits that say p_label; None takes `teacher`.
      gamma: weight of the second part, a number or ().
      temperature: T > 0, () or (B, 1), of the second part.
      iterations: >= 1, see `transport`.

    Returns:
      (B,), at least 0 for gamma >= 0.

    Raises:
      InputError: a temperature that is not above 0, or no iteration.

    Reference: Lv, Yang, Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", 2024,
      arXiv 2412.08139.
    """
    raw, plain = finite(teacher if raw_teacher is None else raw_teacher, student)
    p, log_q = jax.nn.softmax(raw), jax.nn.log_softmax(plain)
    target = -jnp.sum(jnp.where(one_hot(labels, student), p * log_q, 0.0), axis=-1)
    pair = {"student": student, "teacher": teacher, "labels": labels, "costs": costs}
    return target + gamma * transport(**pair, temperature=temperature, iterations=iterations)


def transport(
    *, student: Array, teacher: Array, labels: Array, costs: Array, temperature: Array | float = 1.0,
    iterations: int = 10,
) -> Array:  # fmt: skip
    """The cost of an entropic plan that carries the student's distribution over the classes beside the label into the
    teacher's.

        sum_jk F_jk C_jk,   F = diag(u) exp(-C / 0.05) diag(v),   C = max(costs, 0) + 1e-8
        v = b / (exp(-C / 0.05)^T u),   u = a / (exp(-C / 0.05) v),   again and again; u starts as 1 / (K - 1)

    a and b are the student's and the teacher's distributions at T. After the last iteration the plan carries all of a,
    and arrives at b nearly. The gradient goes through all iterations.

    Args:
      student, teacher: (B, K) logits, K >= 2.
      labels: (B,) integers in [0, K).
      costs: (K, K) from class j to class k, 0 on the diagonal and about 1 at most: `class_costs`.
      temperature: T > 0, () or (B, 1).
      iterations: >= 1.

    Returns:
      (B,), at least 0, and above 0 where student and teacher agree: a soft plan spreads.

    Raises:
      InputError: a temperature that is not above 0, or no iteration.

    Reference: as of `wkd_l`; Cuturi, "Sinkhorn Distances", 2013, arXiv 1306.0895.
    Differs: as in the published code, 1e-8 is added to each cost and to what the two scalings divide by. Where all
      costs are about 1 that is as much as the kernel itself, and less than all of a is carried.
    """
    check_temperature("wkd_l", temperature)
    if iterations < 1:
        raise InputError(f"wkd_l: iterations must be at least 1, got {iterations}")
    others = ~one_hot(labels, student)
    a, b = (jnp.exp(among(z, others)) for z in finite(student, teacher, temperature=temperature))
    others = others.astype(a.dtype)
    a, b = a * others, b * others  # 0 for the label also where there is no other class
    (costs,) = upcast(costs)
    costs = jnp.maximum(costs, 0.0) + GUARD
    kernel = jnp.exp(-costs / SOFTNESS)
    u = others / jnp.maximum(jnp.sum(others, axis=-1, keepdims=True), 1.0)
    for _ in range(iterations):
        v = b / (_product(u, kernel) + GUARD)
        u = a / (_product(v, kernel.T) + GUARD)
    return jnp.sum(u * _product(v, (kernel * costs).T), axis=-1)


def class_costs(distances: Array, sharpness: float = 1.0) -> Array:
    """Costs in [0, 1) of distances (K, K) of classes: 1 - exp(-sharpness distance).

    sharpness: > 0, kappa of the paper.
    """
    return -jnp.expm1(-sharpness * jnp.maximum(*upcast(distances, 0.0)))


def cosine_distances(rows: Array) -> Array:
    """(K, D) to (K, K): 1 minus the cosine of every two rows, in [0, 2] and 0 on the diagonal."""
    rows = l2_normalize(*upcast(rows))
    distances = jnp.clip(1 - _product(rows, rows.T), 0.0, 2.0)
    return jnp.where(jnp.eye(len(rows), dtype=bool), 0.0, distances)


def class_cka(features: Array) -> Array:
    """How alike the features of every two classes are: linear CKA, in [0, 1], 1 on the diagonal.

        |X^T Y|^2 / (|X^T X| |Y^T Y|),   columns centred, Frobenius norms

    Rows are paired in the order in which they stand. A class whose rows are all equal is like no other.

    Args:
      features: (K, N, D), N rows of every class.

    Returns:
      (K, K), symmetric.

    Reference: Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", 2019,
      arXiv 1905.00414.
    """
    (x,) = upcast(features)
    x = l2_normalize(x - jnp.mean(x, axis=1, keepdims=True), axis=(1, 2))
    alike = jax.lax.map(lambda one: jax.lax.map(lambda other: jnp.sum(_product(one.T, other) ** 2), x), x)
    size = jnp.sqrt(jnp.diagonal(alike))
    cka = alike / jnp.maximum(size[:, None] * size, TINY)
    return jnp.where(jnp.eye(len(x), dtype=bool), 1.0, jnp.clip(cka, 0.0, 1.0))


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision="highest")
