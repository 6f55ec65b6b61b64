"""The alpha-beta divergence: KL, reverse KL, and what lies between and beyond."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergence import check_temperature, finite
from kd_jax.typing import Array


def alpha_beta(*, student: Array, teacher: Array, alpha: float, beta: float, temperature: Array | float = 4.0) -> Array:
    """The alpha-beta divergence of the student's softened prediction q from the teacher's p, summed over classes.

        D(p || q) = -1 / (a b) sum_c (p^a q^b - a / (a + b) p^(a + b) - b / (a + b) q^(a + b))

    and where a, b or a + b is 0 the limit. (1, 0) is KL(p || q), (0, 1) KL(q || p), (1, 1) half the squared distance.
    A larger b looks more at the classes of which the student is sure, a smaller a more at those where it is far off.
    There is no T^2. Nothing is detached.

    Args:
      student: (B, K) logits.
      teacher: (B, K) logits; infinite ones are read as 1e30.
      alpha, beta: a and b. With a negative power a probability near 0 makes the loss large, in the end infinite.
      temperature: T > 0.

    Returns:
      (B,), at least 0 up to rounding.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Wang et al., "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via
      alpha-beta-Divergence", 2025, arXiv 2505.04560.
    Differs: where a, b or a + b is 0 the published code has 1 / a or 1 / b in front of the limit and not its square:
      the same for 1, half the value for 0.5. Here it is the limit.
    """
    check_temperature("ab_kd", temperature)
    log_q, log_p = (jax.nn.log_softmax(z) for z in finite(student, teacher, temperature=temperature))
    return _divergence(log_p, log_q, alpha, beta)


def _divergence(log_p: Array, log_q: Array, a: float, b: float) -> Array:
    """Written so that nothing cancels near a limit: sum_c (G(a + b) - G(a)) / b, G(x) = q^(a + b) ((p / q)^x - 1) / x,
    with the larger of a and b in the place of b."""
    if abs(a) > abs(b):
        return _divergence(log_q, log_p, b, a)
    d, s = log_p - log_q, a + b
    if abs(b) < jnp.finfo(d.dtype).eps ** 0.5:
        return 0.5 * jnp.sum(d**2, axis=-1)
    scale = jnp.exp(s * log_q)

    def grown(x: float) -> Array:
        if x == 0:
            return scale * d
        far = x * d > 1  # where scale may be 0 and the power infinite
        near = scale * jnp.expm1(jnp.where(far, 0.0, x * d))
        return jnp.where(far, jnp.exp(x * log_p + (s - x) * log_q) - scale, near) / x

    return jnp.sum(grown(s) - grown(a), axis=-1) / b
