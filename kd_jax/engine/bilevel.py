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
from kd_jax.engine.optim import policy_adam
from kd_jax.engine.state import TrainState, as_teachers
from kd_jax.engine.step import gradients, mask_of, objective
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
    task: frozenset | None = None,
    axis_name: str | None = None,
    spread: ParamSharding | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One step of the policy; parameters, statistics and the step count stay. Pure.

    Args:
      state: before the training step that this one prepares.
      inner: teacher outputs and batch of that training step.
      outer: the same of the examples that judge it.
      key: the run's root key; the step is folded in here.
      student, distiller, tx, task, axis_name, spread: as for `train_step`; `distiller.search` says how.

    Returns:
      (state, metrics): metrics hold the outer loss.

    Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge
      Distillation", 2024, arXiv 2409.18785; Liu, Simonyan, Yang, "DARTS", 2018, arXiv 1806.09055.
    Differs: the public code of this family differentiates by finite differences, with a look-ahead of its own
      (plain SGD with rate 0.01), and takes the same batch inside and outside.
    """
    search, key = distiller.search, fold(jax.random.fold_in(key, state.step), "search")
    parts = {"student": student, "distiller": distiller}
    (taught, batch), (judge, judging) = ((as_teachers(t), b) for t, b in (inner, outer))
    gather, split = spread or WHOLE
    params, policy = gather((state.params, state.policy))

    def loss(params: PyTree, policy: PyTree) -> Array:
        return objective(params, policy, state, taught, batch, key, **parts)[0]

    def descent(params: PyTree, policy: PyTree) -> PyTree:
        given, mask = (policy, state, taught, batch, key), mask_of(batch)
        return gradients(partial(objective, **parts), params, *given, task=task, mask=mask)[2]

    def update(grads: PyTree) -> PyTree:
        return gather(optax.apply_updates(state.params, tx.update(split(grads), state.opt, state.params)[0]))

    def judged(params: PyTree, policy: PyTree) -> Array:
        policy = policy if search.outer == "refined" else {}
        return objective(params, policy, state, judge, judging, fold(key, "outer"), **parts)[0]

    mean = partial(jax.lax.pmean, axis_name=axis_name) if axis_name else lambda tree: tree
    if search.hypergradient == "exact":
        value, grads = _exact(descent, update, judged, params, policy, mean)
    else:
        value, grads = _finite(loss, update, judged, params, policy, mean)
    value, grads = mean((value, grads))
    if search.score is not None:
        grads = jax.tree.map(jnp.add, grads, search.score(policy, fold(key, "method"), value))
    updates, policy_opt = policy_adam(search).update(grads, state.policy_opt, state.policy)
    policy = optax.apply_updates(state.policy, updates)
    measured = {"outer": metrics_lib.mean_of(value, mask_of(judging))}
    if axis_name:
        measured = jax.lax.psum(measured, axis_name)
    return state._replace(policy=policy, policy_opt=policy_opt), measured


def _exact(descent, update, judged, params: PyTree, policy: PyTree, mean) -> tuple[Array, PyTree]:
    """Value and gradient of the outer loss, through the update (a gradient of a gradient)."""

    def ahead(policy):
        return judged(update(mean(descent(params, policy))), policy)

    return jax.value_and_grad(ahead)(policy)


def _finite(loss, update, judged, params: PyTree, policy: PyTree, mean) -> tuple[Array, PyTree]:
    """The same with the mixed second derivative by central differences, as DARTS-style code has it:
    d/da <dL_in/dtheta, v> is the difference of dL_in/da at theta + r v and theta - r v over 2 r, r = 0.01 / |v|."""
    ahead, back = jax.vjp(update, mean(jax.grad(loss)(params, policy)))
    value, (outer, direct) = jax.value_and_grad(judged, argnums=(0, 1))(ahead, policy)
    (v,) = back(mean(outer))
    r = 0.01 / jnp.maximum(optax.tree.norm(v), 1e-12)
    sides = [jax.grad(loss, argnums=1)(optax.tree.add_scale(params, sign * r, v), policy) for sign in (1, -1)]
    mixed = jax.tree.map(lambda a, b: (a - b) / (2 * r), *sides)
    return value, jax.tree.map(jnp.add, mixed, direct)
