"""EA-KD's weight of an example: how much its two distributions leave open."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergence import check_temperature, entropy, finite
from kd_jax.typing import Array, InputError

BOUNDS = ("log", "classes")


def entropy_weight(*, student: Array, teacher: Array, temperature: float = 3.0, bound: str = "log") -> Array:
    """Entropy-based adaptive weight.

        H_teacher (1 + H_student / bound) / 2,   H = entropy of softmax(z / T)

    Nothing is detached.

    Args:
      student: (B, K) logits, K >= 2.
      teacher: (B, K) logits.
      temperature: T > 0; 3 as published, 2 on ImageNet.
      bound: "log" is log K, the largest entropy, as the paper has it; "classes" is K, as the published code of KD and
        DKD has it.

    Returns:
      (B,), in [0, log K]: 0 for a one-hot teacher, log K where both are uniform and the bound is "log".

    Raises:
      InputError: a temperature that is not above 0, an unknown bound.

    Reference: Su et al., "EA-KD: Entropy-based Adaptive Knowledge Distillation", 2025, arXiv 2311.13621.
    Differs: the published code adds 1e-10 to probabilities before their logarithm; here it is exact.
    """
    check_temperature("entropy_weight", temperature)
    if bound not in BOUNDS:
        raise InputError(f"entropy_weight: bound must be {' or '.join(BOUNDS)}, got {bound!r}")
    of_student, of_teacher = (entropy(jax.nn.log_softmax(z)) for z in finite(student, teacher, temperature=temperature))
    classes = student.shape[-1]
    return of_teacher * (1 + of_student / (jnp.log(classes) if bound == "log" else classes)) / 2
