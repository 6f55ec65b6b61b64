"""A step as the loop takes it: images normalised, metrics summed, what is not finite noticed."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState
from kd_jax.models.network import Network, normalize
from kd_jax.typing import Array, Batch, Outputs


class LoopState(NamedTuple):
    """What one training step hands to the next; donated."""

    state: TrainState
    metrics: metrics_lib.Metrics
    health: metrics_lib.Health


def normalized(batch: Batch, network: Network) -> Batch:
    """The batch with every image normalised for a network; batches carry images in [0, 1]."""

    def image(x: Array) -> Array:
        return normalize(x, network.mean, network.std)

    views = {name: {**view, "image": image(view["image"])} for name, view in batch.get("views", {}).items()}
    return {**batch, "image": image(batch["image"])} | ({"views": views} if views else {})


def loop_step(
    loop: LoopState, teachers: tuple[Outputs, ...], batch: Batch, key: Array, *, step: Callable, skip: int = 0
) -> LoopState:
    """Take a training step.

    Args:
      loop: from the step before.
      teachers, batch, key: as `step` takes them.
      step: (state, teachers, batch, key) -> (state, metrics).
      skip: how many updates may be left out because their loss or their result is not finite.
    """
    state, measured = step(loop.state, teachers, batch, key)
    sums, fine = metrics_lib.add(loop.metrics, measured), jnp.isfinite(measured["loss"].total)
    if skip:  # keep what was before a bad step, but for the count of steps
        fine &= jnp.isfinite(optax.tree.norm(state.params))
        before = loop.state._replace(step=state.step), loop.metrics
        state, sums = jax.tree.map(partial(jnp.where, fine), (state, sums), before)
    return LoopState(state, sums, metrics_lib.check(loop.health, state.step, measured, fine, skip))


def loop_search_step(loop: LoopState, inner, outer, key: Array, *, step: Callable) -> LoopState:
    """Take a policy step: `step` is (state, inner, outer, key) -> (state, metrics)."""
    state, _ = step(loop.state, inner, outer, key)
    return loop._replace(state=state)
