"""TTM: the teacher alone is softened, the student is compared as it is; and WTTM's weights."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergence import check_temperature, finite, kl
from kd_jax.typing import Array


def ttm(*, student: Array, teacher: Array, gamma: float) -> Array:
    """Transformed teacher matching.

        KL(softmax(gamma teacher) || softmax(student))

    With gamma = 1 / T the teacher's distribution is the one that KD softens; the student has temperature 1, and there
    is no T^2. Nothing is detached.

    Args:
      student: (B, K) logits.
      teacher: (B, K) logits; infinite ones are read as 1e30.
      gamma: > 0, the power of the teacher's probabilities; 1 is KD at T = 1.

    Returns:
      (B,), at least 0.

    Raises:
      InputError: a gamma that is not above 0.

    Reference: Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", 2024, arXiv 2402.11148.
    """
    check_temperature("ttm", gamma, "gamma")
    (student,), (teacher,) = finite(student), finite(teacher, temperature=1 / gamma)
    return kl(jax.nn.log_softmax(teacher), jax.nn.log_softmax(student))


def power_sum(*, teacher: Array, gamma: float) -> Array:
    """WTTM's weight of an example: sum_c softmax(teacher)_c^gamma.

    Args:
      teacher: (B, K) logits.
      gamma: in (0, 1] as published.

    Returns:
      (B,); for gamma <= 1 from 1 (one-hot) to K^(1 - gamma) (uniform).

    Raises:
      InputError: a gamma that is not above 0.
    """
    check_temperature("power_sum", gamma, "gamma")
    (teacher,) = finite(teacher)
    return jnp.exp(jax.nn.logsumexp(gamma * jax.nn.log_softmax(teacher), axis=-1))
