"""Metrics as two sums on the device: added up step by step, read back once a log interval."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.typing import Array, Logs, Mean, Terms

Metrics = dict[str, Mean]


class NonFiniteError(ArithmeticError):
    """Training met a loss or an update that is not finite. The message names the phase, the step and the term."""


def mean_of(value: Array | Mean, mask: Array) -> Mean:
    """The two sums of a (B,) value over the examples that count, of a () value, or of a ratio.

    A () value is a property of the batch and counts as many times as the batch has examples.
    """
    if isinstance(value, Mean):
        return Mean(*(jnp.asarray(v, jnp.float32) for v in value))
    value = jnp.asarray(value)
    value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    count = jnp.sum(mask)
    return Mean(jnp.sum(jnp.where(mask > 0, value, 0)) if value.ndim else value * count, count)


def named(terms: Terms, logs: Logs, mask: Array) -> Metrics:
    """Metrics of a step's terms and logs, under "terms/..." and "logs/..."."""
    pairs = {f"terms/{k}": v for k, v in terms.items()} | {f"logs/{k}": v for k, v in logs.items()}
    return {name: mean_of(value, mask) for name, value in pairs.items()}


def add(a: Metrics, b: Metrics) -> Metrics:
    """Sum of both."""
    return jax.tree.map(jnp.add, a, b)


class Health(NamedTuple):
    """What went wrong so far.

    step: () int32, the step whose loss was not finite and may not be skipped; -1: none.
    terms: which terms were not finite then. skipped: () int32, updates skipped so far.
    """

    step: Array
    terms: dict[str, Array]
    skipped: Array


def healthy(metrics: Metrics) -> Health:
    """Nothing wrong yet."""
    terms = {name: jnp.zeros((), bool) for name in metrics if name.startswith("terms/")}
    return Health(jnp.full((), -1, jnp.int32), terms, jnp.zeros((), jnp.int32))


def check(health: Health, step: Array, metrics: Metrics, fine: Array, allowed: int = 0) -> Health:
    """Note a step that is not `fine`: as skipped while that is allowed, else as where training ended."""
    skipped = health.skipped + ~fine
    first = (health.step < 0) & (skipped > allowed)
    terms = {name: jnp.where(first, ~jnp.isfinite(metrics[name].total), was) for name, was in health.terms.items()}
    return Health(jnp.where(first, step, health.step), terms, skipped)


def zeros_like(metrics: Metrics) -> Metrics:
    """Nothing counted yet, for metrics of these names (arrays or shapes)."""
    return jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)


def read(metrics: Metrics | list[Metrics]) -> dict[str, float]:
    """Bring the sums to the host and divide; of several, what they sum to. A mean of nothing is 0."""
    parts = jax.device_get(metrics if isinstance(metrics, list) else [metrics])
    sums = {n: (sum(float(p[n].total) for p in parts), sum(float(p[n].count) for p in parts)) for n in parts[0]}
    return {name: total / count if count else 0.0 for name, (total, count) in sums.items()}
