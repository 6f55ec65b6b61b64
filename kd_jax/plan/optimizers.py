"""A phase's learning rate and optimiser."""

from collections.abc import Mapping
from functools import partial

import jax
import optax
from flax import linen as nn

from kd_jax import config
from kd_jax.engine import optim
from kd_jax.engine.dot import dot, loss_dependencies
from kd_jax.engine.objective import mask_of, objective, split_losses
from kd_jax.engine.state import TrainState, trained
from kd_jax.plan.trace import step_inputs
from kd_jax.tasks import Task
from kd_jax.typing import Distiller, InitContext, InputError, Schedule


def schedule_of(phase: config.Phase, steps: int, steps_per_epoch: int) -> Schedule:
    """The learning rate of every step; epochs become steps here."""
    warmup = round(phase.schedule.warmup_epochs * steps_per_epoch)
    if phase.schedule.name == "cosine":
        return optim.cosine_schedule(phase.optim.lr, steps=steps, warmup=warmup)
    milestones = tuple(round(m * steps_per_epoch) for m in phase.schedule.milestones)
    return optim.step_schedule(phase.optim.lr, milestones=milestones, gamma=phase.schedule.gamma, warmup=warmup)


def plain(phase: config.Phase, schedule: Schedule, rates: Mapping[str, float]) -> optax.GradientTransformation:
    """SGD or AdamW over all parameters, behind a clip of the whole gradient; members have rates of their own."""
    shared = {"momentum": phase.optim.momentum, "weight_decay": phase.optim.weight_decay}
    make = partial(optim.adamw, **shared)
    if phase.optim.name != "adamw":
        make = partial(optim.sgd, nesterov=phase.optim.nesterov, **shared)
    moves = optim.grouped(make, schedule, rates)
    return optax.chain(optax.clip_by_global_norm(phase.optim.clip), moves) if phase.optim.clip else moves


def fitted(
    phase: config.Phase, student: nn.Module, distiller: Distiller, schedule: Schedule, task_terms: frozenset | None,
    state: TrainState, context: InitContext, task: Task,
) -> optax.GradientTransformation | None:  # fmt: skip
    """The optimizer where it counts which term reaches which parameter; None where `plain` is right.

    That is DOT, and a phase without a task loss: what no term reaches there (a classifier, while features are
    prepared) stays as it is and does not decay, as where PyTorch has no gradient.

    Args:
      phase, student, distiller, schedule, task: its own.
      task_terms: see `task_of`.
      state: shapes.
      context: of the distiller.
    """
    if task_terms is None and distiller.task_terms:
        return None
    args = (state, *step_inputs(context, distiller.needs, task), jax.eval_shape(jax.random.key, 0))
    loss = partial(objective, student=student, distiller=distiller, trains=phase.trains)

    def apart(params, state, teachers, batch, key):
        args = (state.policy, state, teachers, batch, key)
        return split_losses(loss, params, *args, task_terms=task_terms or frozenset(), mask=mask_of(batch))[0]

    reached = loss_dependencies(apart, trained(state.params, phase.trains), *args)
    if task_terms:
        settings = {"momentum": phase.optim.momentum, "weight_decay": phase.optim.weight_decay}
        multipliers = distiller.lr_multipliers
        return dot(schedule, reached=reached, delta=phase.optim.delta, lr_multipliers=multipliers, **settings)
    if all(jax.tree.leaves(reached[1])):
        return None
    moves = {True: plain(phase, schedule, distiller.lr_multipliers), False: optax.set_to_zero()}
    return optax.partition(moves, reached[1])


def task_of(phase: config.Phase, distiller: Distiller) -> frozenset | None:
    """Labels of the terms that DOT keeps apart from all others; None where there is one gradient."""
    if not phase.optim.delta:
        return None
    task_terms = frozenset(name.partition("/")[0] for name in distiller.task_terms)
    if not task_terms or len(task_terms) == len(phase.terms):
        raise InputError(f"config.{phase.name}.optim.delta: needs a term that is the task's loss, and another one")
    if distiller.search and distiller.search.hypergradient == "finite":
        raise InputError(f"config.{phase.name}.optim.delta: a search beside it needs hypergradient=exact, got finite")
    return task_terms


def check_accumulate(phase: config.Phase, distiller: Distiller, devices: int) -> None:
    """Refuse to cut a batch that does not divide, or that a member looks at as a whole. devices: each cuts its own
    part of the batch. (Terms that are one number for the whole batch are refused when the step is traced.)"""
    count = phase.accumulate
    if count == 1:
        return
    key = f"config.{phase.name}.accumulate: {count}, but"
    if phase.batch_size % (devices * count):
        raise InputError(f"{key} batch {phase.batch_size} on {devices} devices does not divide into so many parts")
    if distiller.search:
        raise InputError(f"{key} its search looks through the step of a whole batch; accepted: 1")
    for label, what in distiller.whole_batch.items():
        raise InputError(f"{key} {label} {what}; accepted: 1")
