"""MLLD: compares logits at several temperatures and on three levels: examples, classes, the batch.

Its loss is about the batch: (). It is called by keyword and detaches nothing. It compares examples with each other:
under parallel.scope="device" each device compares only its own examples, in scope "global" the whole batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd_jax.losses.common import gram, upcast
from kd_jax.losses.logits import kd
from kd_jax.typing import Array


def mlld(
    *,
    student: Array,
    teacher: Array,
    student_strong: Array,
    teacher_strong: Array,
    plain_student: Array | None = None,
    plain_teacher: Array | None = None,
    temperature: Array | float = 4.0,
    temperatures: Sequence[float] = (3.0, 5.0),
    weak_temperatures: Sequence[float] = (2.0, 6.0),
) -> Array:
    """Multi-level logit distillation, of the usual ("weak") view of a batch and of a strongly augmented one.

        sum_T m KD_T(weak) + sum_T in T1 KD_T(strong) + sum_T in T2 KD_T(weak) + sum_T (c CLASS_T + m BATCH_T)

        T1 = temperature and `temperatures`,  T2 = `weak_temperatures`,  sum_T over both
        KD_T    = T^2 mean_b KL(q_b || p_b)              instances
        CLASS_T = sum |q^t q - p^t p|^2 / K              (K, K): which classes go together
        BATCH_T = sum |q q^t - p p^t|^2 / B              (B, B): which examples go together

    with p = softmax(plain_student / T) and q = softmax(plain_teacher / T), (B, K). In KD_T, p and q are those of the
    view's pair, student and teacher, instead. m is the share of examples whose confidence, max softmax(plain_teacher),
    is at most the batch's median: 1/2 in a batch of even size without ties. c is the share of classes whose summed
    softmax(plain_teacher) is at most the median over the classes.

    Args:
      student, teacher: (B, K) logits of the weak view, refined (standardised, for example) or not.
      student_strong, teacher_strong: (B, K), the same for the strong view of the same examples.
      plain_student, plain_teacher: (B, K) raw logits of the weak view; None: student, teacher.
      temperature: T > 0, the one that recipes set; for every part.
      temperatures: each T > 0, more temperatures for every part.
      weak_temperatures: each T > 0; at these the strong view is not compared, and the weak view's KD counts 1 + m.

    Returns:
      (), at least 0 up to rounding.

    Raises:
      InputError: a temperature that is not above 0.
      ValueError: views of different shapes.

    Reference: Jin, Wang, Lin, "Multi-Level Logit Distillation", 2023 (CVPR).
    Differs: this loss does what the published code does, also where that code seems to intend something else. The masks
      of the less confident examples and of the rarer classes multiply values that are averaged already, so that only
      the means of the masks, m and c, have an effect. The strong view is compared at 4, 3 and 5; at 2 and 6 the weak
      view is compared again in its place (`temperatures=(2, 3, 5, 6), weak_temperatures=()` corrects that). The
      published code computes the strong view's CLASS and BATCH and drops them; here they are not computed. With LSKD
      it standardises only the logits of KD: hence plain_student and plain_teacher.
    """
    if student.shape != student_strong.shape or teacher.shape != teacher_strong.shape:
        shapes = ", ".join(str(z.shape) for z in (student, student_strong, teacher, teacher_strong))
        raise ValueError(f"mlld: student and teacher each need weak and strong logits of one shape, got {shapes}")
    plain = upcast(
        student if plain_student is None else plain_student, teacher if plain_teacher is None else plain_teacher
    )
    certain = jax.nn.softmax(plain[1])
    m, c = _lower_half(jnp.max(certain, axis=-1)), _lower_half(jnp.sum(certain, axis=0))
    total = jnp.zeros((), m.dtype)
    for i, t in enumerate((temperature, *temperatures, *weak_temperatures)):
        weak = jnp.mean(kd(student=student, teacher=teacher, temperature=t))
        if i > len(temperatures):
            again = weak
        else:
            again = jnp.mean(kd(student=student_strong, teacher=teacher_strong, temperature=t))
        p, q = (jax.nn.softmax(z / t) for z in plain)
        total = total + m * weak + again + c * _gap(p.T, q.T) + m * _gap(p, q)
    return total


def _lower_half(x: Array) -> Array:
    """(N,) to (): the share of values that are at most the median."""
    return jnp.mean((x <= jnp.median(x)).astype(x.dtype))


def _gap(p: Array, q: Array) -> Array:
    """The squared differences of two Gram matrices (N, N), summed and divided by N."""
    return jnp.sum((gram(q) - gram(p)) ** 2) / len(p)
