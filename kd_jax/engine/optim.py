"""Optimisers and schedules with PyTorch's semantics, and groups of parameters with own rates."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from kd_jax.typing import Array, Schedule, Search


def step_schedule(lr: float, *, milestones: tuple[int, ...], gamma: float, warmup: int = 0) -> Schedule:
    """lr * gamma^(milestones passed), after a linear warm-up. Milestones and warm-up in steps:
    a milestone m changes the rate of step m, counted from 0."""

    def schedule(step: Array) -> Array:
        passed = sum((step >= m).astype(jnp.float32) for m in milestones) if milestones else 0.0
        return _warm(lr * gamma**passed, step, warmup)

    return schedule


def cosine_schedule(lr: float, *, steps: int, warmup: int = 0) -> Schedule:
    """lr * (1 + cos(pi t)) / 2, t from 0 after the linear warm-up to 1 at the end."""

    def schedule(step: Array) -> Array:
        t = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        return _warm(lr * 0.5 * (1 + jnp.cos(jnp.pi * t)), step, warmup)

    return schedule


def _warm(rate: Array, step: Array, warmup: int) -> Array:
    rate = jnp.asarray(rate, jnp.float32)
    return rate * jnp.minimum((step + 1) / warmup, 1.0) if warmup else rate


def sgd(schedule: Schedule, *, momentum: float = 0.9, weight_decay: float = 5e-4, nesterov: bool = False):
    """torch.optim.SGD: decay added to the gradient of every parameter (BatchNorm and biases too),
    then momentum, then the learning rate."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum, nesterov=nesterov)
    )


def adamw(schedule: Schedule, *, momentum: float = 0.9, weight_decay: float = 0.05):
    """AdamW with beta_1 = momentum, beta_2 = 0.999 and decoupled decay of every parameter."""
    return optax.adamw(schedule, b1=momentum, b2=0.999, weight_decay=weight_decay)


def grouped(make, schedule: Schedule, rates: Mapping[str, float]) -> optax.GradientTransformation:
    """One optax object over {"student", "method"} in which members of a method have own rates.

    Args:
      make: schedule -> transformation; called once a group, so each keeps its own state.
      schedule: the phase's learning rate.
      rates: path of a member ("skd", "outer/inner") -> multiple of the learning rate. A path
        covers what lies below it; everything else, the student too, has rate 1.
    """
    groups = {"1": make(schedule)}
    for rate in rates.values():
        groups[f"{rate:g}"] = make(schedule if rate == 1 else lambda step, r=rate: r * schedule(step))

    def label(path, _) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        inside = [r for r in rates if f"{name}/".startswith(f"method/{r}/" if r else "method/")]
        return f"{rates[max(inside, key=len)]:g}" if inside else "1"

    return optax.partition(groups, lambda params: jax.tree_util.tree_map_with_path(label, params))


def policy_adam(search: Search) -> optax.GradientTransformation:
    """Adam over a method's policy, weight decay added to its gradient as in PyTorch."""
    return optax.chain(optax.add_decayed_weights(search.decay), optax.adam(search.rate, *search.betas))
