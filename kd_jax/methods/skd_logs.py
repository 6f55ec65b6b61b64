"""What SKD reports: whether its target still teaches, or has moved to the student."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergence import entropy, kl
from kd_jax.typing import Array, Logs, Mean, Monitor

MONITORS = (
    Monitor("kept", 0.9, "the simplified target has another top class than the teacher's for many examples"),
    Monitor("ratio", 0.7, "the loss falls because the target moves to the student, not the student to the teacher"),
    Monitor("entropy_ratio", 0.1, "the simplified target has become nearly one-hot"),
)
TEMPERATURE = (Monitor("temperature", unit="temperature"),)


def diagnose(u: Array, v: Array, s: Array) -> Logs:
    """From log-probabilities (B, K) of softened teacher, target and student; each log (B,) or a ratio."""

    def ratio(a, b):
        return Mean(jnp.sum(a), jnp.sum(b))

    kl_ts, kl_us = kl(v, s), kl(u, s)
    centre = jax.nn.logsumexp(v, axis=0, keepdims=True) - jnp.log(v.shape[0])
    return {
        "kl_ut": kl(u, v),
        "kl_ts": kl_ts,
        "kl_us": kl_us,
        "ratio": ratio(kl_ts, kl_us),
        "entropy": entropy(v),
        "entropy_u": entropy(u),
        "entropy_ratio": ratio(entropy(v), entropy(u)),
        "kept": (jnp.argmax(v, axis=-1) == jnp.argmax(u, axis=-1)).astype(jnp.float32),
        "spread": kl(v, centre),
    }


def sizes(delta: Array, residual: bool, bound: float | None) -> Logs:
    """How large corrections (B, K) are; each log (B,)."""
    logs = {}
    if residual:
        logs["correction"] = jnp.mean(jnp.abs(delta), axis=-1)
    if bound is not None:
        logs["at_bound"] = jnp.mean(jnp.abs(delta) > 0.9 * bound, axis=-1)
    return logs
