"""Schedules and optimisers with PyTorch's semantics, and groups of parameters with learning rates of their own."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from kd_jax.models.base import UNDECAYED
from kd_jax.typing import Array, PyTree, Schedule, Search


def step_schedule(lr: float, *, milestones: tuple[int, ...], gamma: float, warmup: int = 0) -> Schedule:
    """lr * gamma^(milestones passed), after a linear warm-up.

    Args:
      lr: learning rate.
      milestones: steps; milestone m changes the rate of step m, counted from 0.
      gamma: in (0, 1].
      warmup: steps, at least 0; 0 for none.
    """
    scales = {m: gamma ** milestones.count(m) for m in milestones}  # short epochs round two milestones to one step
    return _with_warmup(optax.piecewise_constant_schedule(lr, scales), warmup)


def cosine_schedule(lr: float, *, steps: int, warmup: int = 0) -> Schedule:
    """lr * (1 + cos(pi t)) / 2, t from 0 after the linear warm-up to 1 at the end.

    optax.cosine_decay_schedule rounds pi t otherwise: the last bit of a fifth of all rates would change, and with
    it every figure of an earlier run.

    Args:
      lr: learning rate after the warm-up.
      steps: of the whole phase.
      warmup: steps, at least 0; 0 for none.
    """

    def schedule(step: Array) -> Array:
        t = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        return lr * 0.5 * (1 + jnp.cos(jnp.pi * t))

    return _with_warmup(schedule, warmup)


def _with_warmup(schedule: Schedule, warmup: int) -> Schedule:
    """A schedule whose first `warmup` steps have 1 / warmup, 2 / warmup, ..., 1 of its rate."""

    def warm(step: Array) -> Array:
        rate = jnp.asarray(schedule(step), jnp.float32)
        return rate * jnp.minimum((step + 1) / warmup, 1.0) if warmup else rate

    return warm


def decayed(params: PyTree) -> PyTree:
    """Which parameters decay in timm's recipes, and so in DeiT's: those of two dimensions or more whose name is not in
    UNDECAYED. Biases, scales of normalisation, class tokens and positions do not."""

    def one(path, leaf) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return jnp.ndim(leaf) > 1 and name not in UNDECAYED

    return jax.tree_util.tree_map_with_path(one, params)


def sgd(
    schedule: Schedule, *, momentum: float = 0.9, weight_decay: float = 5e-4, nesterov: bool = False,
    decay_all: bool = True,
) -> optax.GradientTransformation:  # fmt: skip
    """torch.optim.SGD: decay added to the gradient of every parameter (BatchNorm and biases too), or with
    decay_all=False of those in `decayed`; then momentum, then the learning rate."""
    decay = optax.add_decayed_weights(weight_decay, None if decay_all else decayed)
    return optax.chain(decay, optax.sgd(schedule, momentum=momentum, nesterov=nesterov))


def adamw(
    schedule: Schedule, *, momentum: float = 0.9, weight_decay: float = 0.05, decay_all: bool = True
) -> optax.GradientTransformation:
    """AdamW with beta_1 = momentum, beta_2 = 0.999 and decoupled decay of every parameter, or with decay_all=False of
    those in `decayed`."""
    mask = None if decay_all else decayed
    return optax.adamw(schedule, b1=momentum, b2=0.999, weight_decay=weight_decay, mask=mask)


def grouped(
    make: Callable[[Schedule], optax.GradientTransformation], schedule: Schedule, lr_multipliers: Mapping[str, float]
) -> optax.GradientTransformation:
    """One optax object over {"student", "method"} in which members of a method have learning rates of their own.

    Args:
      make: schedule -> transformation; called once a group, so that each keeps its own state.
      schedule: the phase's learning rate.
      lr_multipliers: path of a member ("skd", "outer/inner") -> multiple of the learning rate. A path
        covers what lies below it; everything else, the student too, has 1.
    """
    groups = {"1": make(schedule)}
    for factor in lr_multipliers.values():
        groups[f"{factor:g}"] = make(schedule if factor == 1 else lambda step, f=factor: f * schedule(step))

    def label(path, _) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        covering = [m for m in lr_multipliers if f"{name}/".startswith(f"method/{m}/" if m else "method/")]
        return f"{lr_multipliers[max(covering, key=len)]:g}" if covering else "1"

    return optax.partition(groups, lambda params: jax.tree_util.tree_map_with_path(label, params))


def policy_adam(search: Search) -> optax.GradientTransformation:
    """Adam over a method's policy, weight decay added to its gradient as in PyTorch."""
    return optax.chain(optax.add_decayed_weights(search.decay), optax.adam(search.rate, *search.betas))
