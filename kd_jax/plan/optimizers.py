"""A phase's learning rate and optimiser, made of its config."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

import jax
import optax
from flax import linen as nn

from kd_jax import config
from kd_jax.engine import OPTIMIZERS, SCHEDULES
from kd_jax.engine.dot import loss_dependencies
from kd_jax.engine.objective import mask_of, objective, split_losses
from kd_jax.engine.optim import grouped
from kd_jax.engine.state import TrainState, trained
from kd_jax.plan.trace import step_inputs
from kd_jax.tasks import Task
from kd_jax.typing import Distiller, InitContext, InputError, PyTree, Schedule, suggest


def check_optim(phase: config.Phase) -> None:
    """Refuse an unknown optimiser or schedule, and what the optimiser does not take.

    Raises:
      InputError: naming the key, and what is accepted.
    """
    optim, key = phase.optim, f"config.{phase.name}.optim"
    for what, name, registry in (("optim", optim.name, OPTIMIZERS), ("schedule", phase.schedule.name, SCHEDULES)):
        if name not in registry:
            raise InputError(f"config.{phase.name}.{what}.name: unknown name {name!r}; {suggest(name, registry)}")
    for option, off in (("nesterov", False), ("delta", 0), ("decay_all", True)):
        value = getattr(optim, option)
        names = [name for name, factory in OPTIMIZERS.items() if option in _parameters(factory)]
        if value != off and optim.name not in names:
            accepted = f"{off} unless optim.name is {' or '.join(names)}"
            raise InputError(f"{key}.{option}: must be {accepted}, got {value!r}")
    if optim.clip and _takes_two_gradients(OPTIMIZERS[optim.name]):
        accepted = f"0 where {phase.name}.optim.name is {optim.name}, which has two gradients"
        raise InputError(f"{key}.clip: must be {accepted}, got {optim.clip!r}")


def make_schedule(phase: config.Phase, steps: int, steps_per_epoch: int) -> Schedule:
    """The learning rate of every step; epochs become steps here."""
    schedule = phase.schedule
    in_steps = {
        "steps": steps,
        "milestones": tuple(round(m * steps_per_epoch) for m in schedule.milestones),
        "gamma": schedule.gamma,
        "warmup": round(schedule.warmup_epochs * steps_per_epoch),
    }
    make = SCHEDULES[schedule.name]
    return make(phase.optim.lr, **_accepted(make, in_steps))


def make_optimizer(
    phase: config.Phase,
    schedule: Schedule,
    lr_multipliers: Mapping[str, float],
    dependencies: tuple[PyTree, PyTree] | None = None,
) -> optax.GradientTransformation:
    """The optimiser of a phase, over the parameters that it trains.

    It clips the whole gradient, if asked to; members have learning rates of their own. With `optim.delta` its `update`
    takes a pair of gradients. Otherwise a parameter that no term depends on stays as it is and does not decay, as
    where PyTorch has no gradient.

    Args:
      phase: checked by `check_optim`.
      schedule: step -> learning rate.
      lr_multipliers: path of a member -> multiple of the learning rate.
      dependencies: see `term_dependencies`.
    """
    optim, factory = phase.optim, OPTIMIZERS[phase.optim.name]
    make = partial(factory, **_accepted(factory, vars(optim)))
    if _takes_two_gradients(factory):
        pair = dependencies if optim.delta else None
        tx = make(schedule, dependencies=pair, lr_multipliers=lr_multipliers)
    else:
        tx = grouped(make, schedule, lr_multipliers)
    if optim.clip:
        tx = optax.chain(optax.clip_by_global_norm(optim.clip), tx)
    if optim.delta or dependencies is None or all(jax.tree.leaves(dependencies[1])):
        return tx
    return optax.partition({True: tx, False: optax.set_to_zero()}, dependencies[1])


def term_dependencies(
    phase: config.Phase, student: nn.Module, distiller: Distiller, task_terms: frozenset | None, state: TrainState,
    context: InitContext, task: Task,
) -> tuple[PyTree, PyTree] | None:  # fmt: skip
    """Which parameters the terms depend on: those in `task_terms`, and all others.

    None where the optimiser does not ask: it has one gradient, and a task loss, which depends on the whole network.
    Otherwise the objective is traced, with its gradient: once for the terms in `task_terms`, if any, and once for the
    others.

    Args:
      phase, student, distiller, context, task: of the plan.
      task_terms: see `task_labels`.
      state: shapes.

    Returns:
      Two trees of booleans like the trained parameters, or None.
    """
    if task_terms is None and distiller.task_terms:
        return None
    params = trained(state.params, phase.trains)
    teacher_outputs, batch = step_inputs(context, distiller.needs, task)
    rest = (state, teacher_outputs, batch, jax.eval_shape(jax.random.key, 0))
    loss = partial(objective, student=student, distiller=distiller, trains=phase.trains)

    def part(i: int, params, state, teacher_outputs, batch, key):
        rest = (state.policy, state, teacher_outputs, batch, key)
        return split_losses(loss, params, *rest, task_terms=task_terms or frozenset(), mask=mask_of(batch))[0][i]

    nothing = jax.tree.map(lambda _: False, params)
    of_task = loss_dependencies(partial(part, 0), params, *rest) if task_terms else nothing
    return of_task, loss_dependencies(partial(part, 1), params, *rest)


def task_labels(phase: config.Phase, distiller: Distiller) -> frozenset | None:
    """The terms whose gradient is kept apart from that of all others, by label or pattern: those that the optimiser
    names, or else the task's. None where there is one gradient.

    Raises:
      InputError: naming `optim.delta`, where the terms are not of both kinds or the search takes one gradient.
    """
    if not phase.optim.delta:
        return None
    if distiller.search and distiller.search.hypergradient == "finite":
        raise InputError(f"config.{phase.name}.optim.delta: a search beside it needs hypergradient=exact, got finite")
    if named := _parameters(OPTIMIZERS[phase.optim.name]).get("apart"):
        return frozenset(named.default)
    task_terms = frozenset(name.partition("/")[0] for name in distiller.task_terms)
    if not task_terms or len(task_terms) == len(phase.terms):
        accepted = "0, or terms of both kinds: the task's loss (ce), and others"
        raise InputError(f"config.{phase.name}.optim.delta: {phase.optim.delta:g}, but accepted is {accepted}")
    return task_terms


def check_accumulate(phase: config.Phase, distiller: Distiller, devices: int) -> None:
    """Refuse to cut a batch that does not divide, or that a member uses as a whole. Terms that are one number for the
    whole batch are refused when the step is traced.

    Args:
      phase, distiller: of the plan.
      devices: each cuts its part of the batch.

    Raises:
      InputError: naming `accumulate`, and the member.
    """
    count = phase.accumulate
    if count == 1:
        return
    key = f"config.{phase.name}.accumulate: {count}, but"
    if phase.batch_size % (devices * count):
        raise InputError(f"{key} batch {phase.batch_size} on {devices} devices does not divide into so many parts")
    if distiller.search:
        raise InputError(f"{key} its search looks through the step of a whole batch; accepted: 1")
    for label, use in distiller.whole_batch.items():
        raise InputError(f"{key} {label} {use}; accepted: 1")


def _takes_two_gradients(factory: Callable) -> bool:
    return "dependencies" in _parameters(factory)


def _parameters(factory: Callable) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(factory).parameters


def _accepted(factory: Callable, options: Mapping) -> dict:
    """Those of the options that a factory has a parameter for."""
    return {name: value for name, value in options.items() if name in _parameters(factory)}
