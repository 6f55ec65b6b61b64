"""Where names meet code: a validated recipe becomes a plan for every phase.

Everything is built, checked and traced before the first phase trains: a mistake in the student's terms is found at
once, not after the teacher's hours.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import optax
from etils import epath

from kd_jax import config, data, methods, models
from kd_jax.config import config_key
from kd_jax.data.resident import Split
from kd_jax.distributed.mesh import Layout
from kd_jax.engine.state import abstract_state, make_init_context, trained
from kd_jax.models.network import Network
from kd_jax.plan import networks, optimizers
from kd_jax.plan.cacheable import check_cacheable, why_not_cached
from kd_jax.plan.checks import single_value_norms, single_value_warning
from kd_jax.plan.distiller import check_fixed, check_members, check_mixed, members_of
from kd_jax.plan.phase_plan import PhasePlan, method_vars
from kd_jax.plan.teachers import Teacher
from kd_jax.plan.trace import trace_steps
from kd_jax.tasks import Task, task_of
from kd_jax.typing import Distiller, InitContext, InputError, Need, Search, Vars, reads_teachers


def build(
    recipe: config.Recipe, dataset: data.Dataset, workdir: epath.Path, layout: Layout, task: Task | None = None
) -> tuple[PhasePlan, ...]:
    """Plan every phase of a recipe.

    Args:
      recipe: validated.
      dataset: loaded.
      workdir: where phases keep their checkpoints.
      layout: the devices.
      task: what the networks learn; None for what the data is for.

    Raises:
      InputError: naming the phase's key.
    """
    task = task or task_of(recipe.data.labels)
    by_name: dict[str, Network] = {}
    plans: dict[str, PhasePlan] = {}
    for phase in recipe.phases:
        name = phase.name
        network, load = networks.weights_of(phase, networks.network_of(phase, dataset), workdir)
        with_options = partial(config_key, name, precision=recipe.precision)
        by_name[name] = with_options(network.with_options, remat=phase.remat)
        teachers = tuple(networks.teacher_of(phase, origin, by_name, workdir, dataset) for origin in phase.teacher)
        teachers = tuple(t._replace(network=with_options(t.network.with_options)) for t in teachers)
        initial = networks.initial_vars_of(phase, {n: method_vars(p.abstract) for n, p in plans.items()}, workdir)
        plan = _plan(recipe, phase, dataset, by_name[name], teachers, initial, layout, task)
        start = networks.start_of(phase, by_name, plans, teachers, workdir)
        plans[name] = replace(plan, weights=load, steps=0) if load else replace(plan, start=start)
        for label, aux in plan.aux_networks(plan.abstract).items():
            by_name[f"{name}/{label}"] = network._replace(name=aux.name, model=aux.model)
    return tuple(plans.values())


def _plan(
    recipe: config.Recipe, phase: config.Phase, dataset: data.Dataset, network: Network,
    teachers: tuple[Teacher, ...], initial: tuple[dict, Any], layout: Layout, task: Task,
) -> PhasePlan:  # fmt: skip
    examples, devices = len(dataset.train), layout.count
    _check_batch(phase, examples, devices)
    optimizers.check_optim(phase)
    per_epoch = examples // phase.batch_size
    steps = phase.steps or phase.epochs * per_epoch
    members = members_of(phase, per_epoch)
    labelled = recipe.data.labels or bool(phase.weights)  # steps that are never taken may read labels
    task_of_steps = task if labelled == recipe.data.labels else task_of(labelled)
    distiller = config_key(phase.name, methods.chain, **members)
    # labels of streamed records cost a pass over all records: they are read only for what asks by example
    labels = dataset.train.labels if {Need.INDEX, Need.CLASS_CKA} & distiller.needs else None
    context_of = partial(
        make_init_context, network.model, tuple(t.network.model for t in teachers),
        image_shape=network.image_shape, needs=distiller.needs, num_examples=examples, labels=labels,
        steps_per_epoch=per_epoch, steps=steps, initial_vars=initial[0], mixes=recipe.data.mix.is_on, labelled=labelled,
    )  # fmt: skip
    context = context_of(batch_size=phase.batch_size)
    check_members(phase, members, {"student": [network], "teacher": [t.network for t in teachers]}, context)
    check_fixed(phase, members, teachers)
    if recipe.data.mix.is_on:
        check_mixed(phase, members, teachers)
    _check_initial_vars(phase, initial[0], distiller)
    checked = _as_a_device_sees_it(recipe, phase, teachers, context, context_of, devices)
    schedule, task_terms = optimizers.make_schedule(phase, steps, per_epoch), optimizers.task_labels(phase, distiller)
    shapes = {"student": network.model, "distiller": distiller, "context": checked}
    shapes |= {"trains": phase.trains, "ema": phase.ema is not None}
    # the optimizer depends on which parameters there are: its state comes after
    state = config_key(phase.name, abstract_state, **shapes, tx=optax.identity())
    _check_what_trains(recipe, phase, distiller, state)
    optimizers.check_accumulate(phase, distiller, devices)
    of_terms = (phase, network.model, distiller, task_terms, state, checked, task_of_steps)
    dependencies = config_key(f"{phase.name}.optim.delta", optimizers.term_dependencies, *of_terms)
    tx = optimizers.make_optimizer(phase, schedule, distiller.lr_multipliers, dependencies)
    state = state._replace(opt=jax.eval_shape(tx.init, trained(state.params, phase.trains)))
    split = _split(phase, distiller.search, examples, steps, per_epoch)
    why_not = why_not_cached(recipe, phase, members, teachers)
    if reads_teachers(distiller.needs) and not phase.weights:
        check_cacheable(recipe, why_not)
    parts = {"student": network.model, "distiller": distiller, "tx": tx, "task_terms": task_terms}
    seeds = recipe.seeds_of(phase)
    more = {"task": task_of_steps, "parts": parts, "searches": split.steps > 0, "skip": recipe.skip_nonfinite}
    more |= {"count": len(seeds)}
    with single_value_norms() as norms:
        traced = config_key(phase.name, trace_steps, phase, layout, network, context, state, **more)
    return PhasePlan(
        phase, seeds, task, layout, network, teachers, distiller, schedule, tx, context, state, traced, steps,
        per_epoch,
        eval_every=recipe.eval.every * per_epoch,
        save_every=recipe.checkpoint.every or per_epoch,
        split=split,
        initial_vars=initial[1],
        warning=single_value_warning(phase, norms),
        why_not_cached=why_not,
    )  # fmt: skip


def _check_batch(phase: config.Phase, examples: int, devices: int) -> None:
    key, batch = f"config.{phase.name}.batch_size", phase.batch_size
    if batch > examples:
        raise InputError(f"{key}: {batch}, but there are {examples} training examples")
    if batch % devices:
        raise InputError(f"{key}: {batch} does not divide by the {devices} devices")


def _as_a_device_sees_it(recipe, phase, teachers, context: InitContext, context_of, devices: int) -> InitContext:
    """The context with the teachers' variables as shapes, and in scope "device" with the batch of one device: a loss
    must accept what it will see."""
    if devices > 1 and recipe.parallel.scope == "device":
        context = context_of(batch_size=phase.batch_size // devices)
    pairs = ((t.network.model, models.shapes(t.network.model, t.network.image_shape)[0]) for t in teachers)
    return context._replace(teachers=tuple(pairs))


def _check_initial_vars(phase: config.Phase, initial: dict[str, Vars], distiller: Distiller) -> None:
    """Refuse an `init.method` that no member takes up."""
    labels = {member.label for member in phase.refine + phase.terms}
    if phase.init.method and not any(label in labels or f"given.{label}" in distiller.needs for label in initial):
        holds = f"holds {', '.join(initial) or 'nothing'}; no member of this phase can start with that"
        raise InputError(f"config.{phase.name}.init.method: {phase.init.method}: {holds}")


def _check_what_trains(recipe: config.Recipe, phase: config.Phase, distiller: Distiller, state) -> None:
    if phase.trains == "method" and (distiller.search or not state.params["method"]):
        why = "a search moves the student too" if distiller.search else "no member has parameters of its own"
        raise InputError(f"config.{phase.name}.trains: method, but {why}")
    if recipe.precision != "float32" and distiller.search and distiller.search.hypergradient == "finite":
        why = f"bfloat16, but {phase.name}'s search takes finite differences, which bfloat16 rounds away"
        raise InputError(f"config.precision: {why}; accepted: float32, or hypergradient=exact")


def _split(phase: config.Phase, search: Search | None, examples: int, steps: int, steps_per_epoch: int) -> Split:
    """Of the training set while the policy is searched: the held-out part must make a batch, and so must the rest."""
    if search is None:
        return Split()
    held_out = round(search.holdout * examples)
    if held_out and not phase.batch_size <= held_out <= examples - phase.batch_size:
        raise InputError(
            f"config.{phase.name}: holdout {search.holdout:g} of {examples} training examples is {held_out}; "
            f"that and the rest must each make a batch of {phase.batch_size}"
        )
    return Split(min(steps, search.epochs * steps_per_epoch), held_out, search.every)
