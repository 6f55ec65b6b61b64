"""Divergences of distributions that are given as log-probabilities, and what losses on logits make these of."""

import jax
import jax.numpy as jnp

from kd_jax.losses.common import upcast
from kd_jax.typing import Array, InputError

HUGE = 1e30  # stands for infinity, so that 0 * log 0 and its gradient are 0 without a mask


def finite(*logits: Array, temperature: Array | float = 1.0) -> list[Array]:
    """Logits over the temperature, as at least float32 (half precision loses the tails that distillation is about), and
    finite: infinite ones are 1e30.

    They are clipped last. A softmax takes the difference from the largest one; compiled as one operation with the
    division it would keep that one's rounding error, of which nothing finite is the exponential.
    """
    return [jnp.clip(z / temperature, -HUGE, HUGE) for z in upcast(*logits)]


def check_temperature(name: str, temperature, what: str = "temperature") -> None:
    """Refuse a number that is not above 0; an array may come from a refiner and is not looked at.

    Raises:
      InputError: naming the loss and the number.
    """
    if isinstance(temperature, (int, float)) and not 0 < temperature < float("inf"):
        raise InputError(f"{name}: {what} must be a finite number above 0, got {temperature}")


def squared(temperature: Array | float) -> Array | float:
    """T^2 as a factor of values (B,), for a temperature () or (B, 1)."""
    return temperature**2 if jnp.ndim(temperature) < 2 else jnp.squeeze(temperature, -1) ** 2


def kl(log_p: Array, log_q: Array) -> Array:
    """KL(p || q) over the last axis, never below 0, to the last digits also where p and q are nearly equal.

        sum_c p (d + exp(-d) - 1),   d = log p - log q

    which is sum_c p d, since p and q both sum to 1; but all its parts are at least 0, so that none cancels.

    Args:
      log_p, log_q: (..., K) log-probabilities; as low as -1e30 for a probability of 0.
    """
    p, q, d = jnp.exp(log_p), jnp.exp(log_q), log_p - log_q
    near = d > -1
    small = jnp.where(near, d, 0.0)
    # where q is far above p, exp(-d) may overflow: there nothing cancels
    far = p * jnp.where(near, 0.0, d) + q - p
    return jnp.sum(jnp.where(near, p * (small + jnp.expm1(-small)), far), axis=-1)


def among(logits: Array, mask: Array) -> Array:
    """log-softmax over the classes in the mask, (B, K): the probability of others is 0. All classes are equally
    likely, with gradient 0, where there is none in it."""
    return jax.nn.log_softmax(jnp.where(mask, logits, -2 * HUGE))


def two_events(logits: Array, target: Array) -> Array:
    """log-probabilities (B, 2) of two events: the one class in the mask `target`, any other class."""
    log_p = jax.nn.log_softmax(logits)
    hit = jnp.sum(jnp.where(target, log_p, 0), axis=-1)
    rest = jax.nn.logsumexp(jnp.where(target, -2 * HUGE, log_p), axis=-1)
    return jnp.stack([hit, rest], axis=-1)


def target_and_rest(student: Array, teacher: Array, label: Array, classes: Array) -> tuple[Array, Array]:
    """DKD's two divergences of the teacher from the student, (B,) each: of the events "label" and "not the label", and
    of the distributions over `classes`. label, classes: masks (B, K)."""
    target = kl(two_events(teacher, label), two_events(student, label))
    return target, kl(among(teacher, classes), among(student, classes))


def entropy(log_p: Array) -> Array:
    """Of log-probabilities (..., K), over the last axis."""
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def one_hot(labels: Array, like: Array) -> Array:
    """Labels (B,) as a mask with the shape of logits (B, K)."""
    return jax.nn.one_hot(labels, like.shape[-1], dtype=bool)
