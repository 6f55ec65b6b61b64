"""Sums and counts; the first step that is not finite; top-k without luck."""

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.engine import metrics as m
from kd_jax.typing import Mean


def test_means_of_all_three_kinds():
    mask = jnp.array([1.0, 1.0, 0.0])
    metrics = m.named(
        {"a": jnp.array([1.0, 3.0, jnp.nan]), "b": jnp.float32(5.0)}, {"r": Mean(jnp.float32(1), jnp.float32(4))}, mask
    )
    assert m.read(metrics) == {"terms/a": 2.0, "terms/b": 5.0, "logs/r": 0.25}
    both = m.add(metrics, metrics)
    assert m.read(both) == m.read(metrics) and float(both["terms/a"].count) == 4
    assert set(m.read(m.zeros_like(metrics)).values()) == {0.0}


def at(ce, kd):
    """Metrics of a step with these two terms."""
    both = m.named({"ce": jnp.float32(ce), "kd": jnp.float32(kd)}, {}, jnp.ones(2))
    return both | {"loss": m.mean_of(jnp.float32(ce + kd), jnp.ones(2))}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("allowed", "ends"), [(0, 2), (1, 3), (2, -1)])
def test_health_notes_the_step_that_ends_it_and_its_terms(bad, allowed, ends):
    health = m.healthy(at(0, 0))
    for step, values in enumerate([(1, 1), (1, bad), (bad, 1), (1, 1)], 1):
        measured = at(*values)
        health = m.check(health, jnp.int32(step), measured, jnp.isfinite(measured["loss"].total), allowed)
    assert int(health.step) == ends and int(health.skipped) == 2
    assert {k: bool(v) for k, v in health.terms.items()} == {"terms/ce": ends == 3, "terms/kd": ends == 2}
