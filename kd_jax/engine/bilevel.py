"""The policy step: a method's policy descends the loss of the network as it will be after the next update.

    a  <-  Adam( d/da  L_out(theta'(a)) ),      theta'(a) = theta + update( d/dtheta L_in(theta; a) )

`update` is the phase's own optimiser in its present state, momentum included, and the gradient goes through it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.objective import gradients, mask_of, objective, total
from kd_jax.engine.optim import policy_adam
from kd_jax.engine.state import TrainState
from kd_jax.engine.views import as_teachers
from kd_jax.methods.base import fold
from kd_jax.typing import WHOLE, Array, Batch, Distiller, Mean, Outputs, ParamSharding, PyTree


def policy_step(
    state: TrainState,
    inner: tuple[Outputs | tuple[Outputs, ...], Batch],
    outer: tuple[Outputs | tuple[Outputs, ...], Batch],
    key: Array,
    *,
    student: nn.Module,
    distiller: Distiller,
    tx: optax.GradientTransformation,
    task_terms: frozenset | None = None,
    axis_name: str | None = None,
    sharding: ParamSharding | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One step of the policy; parameters, statistics and the step count stay. Pure.

    Args:
      state: before the training step that this one prepares.
      inner: teacher outputs and batch of that training step.
      outer: the same of the examples that the outer loss is taken on.
      key: the run's key for training; the step is folded in here.
      student, distiller, tx, task_terms, axis_name, sharding: as for `train_step`; `distiller.search` says how.

    Returns:
      (state, metrics): metrics hold the outer loss.

    Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge
      Distillation", 2024, arXiv 2409.18785; Liu, Simonyan, Yang, "DARTS", 2018, arXiv 1806.09055.
    Differs: the public code of this family differentiates by finite differences, with a look-ahead of its own
      (plain SGD with rate 0.01), and takes the same batch inside and outside.
    """
    search, key = distiller.search, fold(jax.random.fold_in(key, state.step), "search")
    objective_of = partial(objective, student=student, distiller=distiller)
    (teachers, batch), (outer_teachers, outer_batch) = ((as_teachers(t), b) for t, b in (inner, outer))
    gather, split = sharding or WHOLE
    params, policy = gather((state.params, state.policy))

    def loss(params: PyTree, policy: PyTree) -> Array:
        return objective_of(params, policy, state, teachers, batch, key)[0]

    def gradient(params: PyTree, policy: PyTree) -> PyTree:
        args, mask = (policy, state, teachers, batch, key), mask_of(batch)
        return gradients(objective_of, params, *args, task_terms=task_terms, mask=mask)[2]

    def update(grads: PyTree) -> PyTree:
        return gather(optax.apply_updates(state.params, tx.update(split(grads), state.opt, state.params)[0]))

    def outer_loss(params: PyTree, policy: PyTree) -> Array:
        policy = {} if search.outer == "plain" else policy
        value, aux = objective_of(params, policy, state, outer_teachers, outer_batch, fold(key, "outer"))
        if search.outer != "consistency":
            return value
        others = {name: term for name, term in aux[1].items() if name not in distiller.task_terms}
        return total(others, mask_of(outer_batch))

    mean = partial(jax.lax.pmean, axis_name=axis_name) if axis_name else lambda tree: tree
    if search.hypergradient == "exact":
        value, grads = _exact(gradient, update, outer_loss, params, policy, mean)
    else:
        value, grads = _finite(loss, update, outer_loss, params, policy, mean)
    value, grads = mean((value, grads))
    if search.score is not None:
        draws = [key] if search.outer == "plain" else [key, fold(key, "outer")]  # each has a draw of its own
        scores = (search.score(policy, fold(draw, "method"), value) for draw in draws)
        grads = jax.tree.map(lambda *parts: sum(parts), grads, *scores)
    updates, policy_opt = policy_adam(search).update(grads, state.policy_opt, state.policy)
    policy = optax.apply_updates(state.policy, updates)
    metrics = {"outer": metrics_lib.mean_of(value, mask_of(outer_batch))}
    if axis_name:
        metrics = jax.lax.psum(metrics, axis_name)
    return state._replace(policy=policy, policy_opt=policy_opt), metrics


def _exact(gradient, update, outer_loss, params: PyTree, policy: PyTree, mean) -> tuple[Array, PyTree]:
    """Value and gradient of the outer loss, through the update (a gradient of a gradient)."""

    def after_update(policy):
        return outer_loss(update(mean(gradient(params, policy))), policy)

    return jax.value_and_grad(after_update)(policy)


def _finite(loss, update, outer_loss, params: PyTree, policy: PyTree, mean) -> tuple[Array, PyTree]:
    """The same with the mixed second derivative by central differences, as DARTS-style code has it:
    d/da <dL_in/dtheta, v> is the difference of dL_in/da at theta + r v and theta - r v over 2 r, r = 0.01 / |v|."""
    ahead, back = jax.vjp(update, mean(jax.grad(loss)(params, policy)))
    value, (outer, direct) = jax.value_and_grad(outer_loss, argnums=(0, 1))(ahead, policy)
    (v,) = back(mean(outer))
    r = 0.01 / jnp.maximum(optax.tree.norm(v), 1e-12)
    sides = [jax.grad(loss, argnums=1)(optax.tree.add_scale(params, sign * r, v), policy) for sign in (1, -1)]
    mixed = jax.tree.map(lambda a, b: (a - b) / (2 * r), *sides)
    return value, jax.tree.map(jnp.add, mixed, direct)
