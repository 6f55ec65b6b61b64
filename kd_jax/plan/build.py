"""Where names meet code: a validated Phase becomes networks, a distiller and an optimiser.

Everything is built and checked before the first phase trains: a mistake in the student's terms is
found at once, not after the teacher's hours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
import optax
from etils import epath

from kd_jax import config, data, methods, models
from kd_jax.config import at
from kd_jax.data.resident import Split
from kd_jax.engine.state import TrainState, abstract_state, make_init_context, trained
from kd_jax.engine.step import reads_teachers
from kd_jax.interop.loaded import Loaded
from kd_jax.models.network import Network
from kd_jax.plan import networks, optimizers
from kd_jax.plan.distiller import check_graft, check_maps, check_needs, members_of
from kd_jax.plan.teachers import Teacher
from kd_jax.typing import AuxNetwork, Distiller, InitContext, InputError, Schedule, Search, Variables, Vars


@dataclass(frozen=True)
class PhasePlan:
    """A phase, ready to run. Times in steps. split: what a search of a policy holds out, and for how long.
    task: labels of the terms that have a gradient of their own, or None. weights: what to load in place of training.
    start: what to begin with, the network or a part of it. given: reads what the members begin with."""

    phase: config.Phase
    network: Network
    teachers: tuple[Teacher, ...]
    distiller: Distiller
    schedule: Schedule
    tx: optax.GradientTransformation
    context: InitContext
    steps: int
    steps_per_epoch: int
    eval_every: int
    save_every: int
    split: Split
    abstract: TrainState
    task: frozenset | None
    given: Callable[[], dict[str, Vars]]
    weights: Callable[[], Loaded] | None = None
    start: Callable[[], Loaded] | None = None

    @property
    def needs_teachers(self) -> bool:
        """Whether training reads the teachers' outputs."""
        return reads_teachers(self.distiller.needs)

    @property
    def fixed_teachers(self) -> tuple[Teacher, ...]:
        """The teachers that do not move: those that sit the exam, and with whom agreement is measured."""
        return tuple(teacher for teacher in self.teachers if teacher.load)

    @property
    def parts(self) -> dict:
        """What the engine's functions are bound to."""
        return {"student": self.network.model, "distiller": self.distiller, "tx": self.tx}

    @property
    def strong(self) -> bool:
        """Whether training reads a second, more strongly augmented view of every batch."""
        return "strong" in self.distiller.needs

    def effective_batch(self, devices: int) -> str:
        """One line: what a batch is made of, and what sees less of it. The learning rate is per batch, however it is
        cut."""
        phase = self.phase
        rows = phase.batch_size // devices // phase.accumulate
        parts = [f"{devices} device{'s' * (devices > 1)}"]
        parts += [f"{phase.accumulate} accumulated"] if phase.accumulate > 1 else []
        cut = phase.accumulate > 1 and self.abstract.stats["student"]
        message = "; BatchNorm sees one accumulated part at a time" if cut else ""
        return f"{phase.name}: batch {phase.batch_size} = {' x '.join([*parts, str(rows)])}{message}"

    @property
    def blank(self) -> dict[str, Vars]:
        """Zeros in place of what the members begin with, where that is not trained yet."""
        return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), dict(self.context.initial_vars))

    def peers(self, state: TrainState) -> dict[str, AuxNetwork]:
        """The networks that are trained beside the student: the members' own by label, its average as "ema"."""
        found = dict(self.distiller.networks(_method(state))) if self.distiller.networks else {}
        if self.phase.ema is not None:
            found["ema"] = AuxNetwork(self.network.name, self.network.model, Variables(**state.ema))
        return found


def plan(recipe: config.Recipe, dataset: data.Dataset, workdir: epath.Path, devices: int = 1) -> tuple[PhasePlan, ...]:
    """Every phase of a recipe, built and checked.

    Args:
      recipe: validated.
      dataset: loaded.
      workdir: where phases keep their checkpoints.
      devices: the batch must divide by it.

    Raises:
      InputError: naming the phase's key.
    """
    known, jobs = {}, {}
    for phase in recipe.phases:
        name = phase.name
        known[name], load = networks.weights_of(phase, networks.network_of(phase, dataset), workdir)
        known[name] = at(name, known[name].with_options, precision=recipe.precision, remat=phase.remat)
        taught_by = tuple(networks.teacher_of(phase, origin, known, workdir) for origin in phase.teacher)
        precise = [at(name, t.network.with_options, precision=recipe.precision) for t in taught_by]
        taught_by = tuple(t._replace(network=n) for t, n in zip(taught_by, precise, strict=True))
        given = networks.given_to(phase, {n: _method(job.abstract) for n, job in jobs.items()}, workdir)
        job = _job(recipe, phase, dataset, known[name], taught_by, given, devices)
        start = networks.start_of(recipe, phase, known, taught_by, workdir)
        jobs[name] = replace(job, weights=load, steps=0) if load else replace(job, start=start)
        for label, peer in job.peers(job.abstract).items():
            known[f"{name}/{label}"] = known[name]._replace(name=peer.name, model=peer.model)
    return tuple(jobs.values())


def _method(state: TrainState) -> Vars:
    return Vars(state.params["method"], state.stats["method"], {})


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


def _check_start(phase: config.Phase, given: dict[str, Vars], needs: frozenset) -> None:
    """Refuse an `init.method` that nothing takes up."""
    labels = {member.label for member in phase.refine + phase.terms}
    if phase.init.method and not any(label in labels or f"given.{label}" in needs for label in given):
        held = ", ".join(given) or "nothing"
        message = f"{phase.init.method}: holds {held}; no member of this phase can start with that"
        raise InputError(f"config.{phase.name}.init.method: {message}")


def _job(recipe, phase, dataset, network, taught_by, given, devices) -> PhasePlan:
    optimizers.check_optim(phase)
    n, batch = len(dataset.train), phase.batch_size
    if batch > n:
        raise InputError(f"config.{phase.name}.batch_size: {batch}, but there are {n} training examples")
    if batch % devices:
        raise InputError(f"config.{phase.name}.batch_size: {batch} does not divide by the {devices} devices")
    per_epoch = n // batch
    steps = phase.steps or phase.epochs * per_epoch
    members = members_of(phase, per_epoch)
    distiller = at(phase.name, methods.chain, **members)
    # of streamed records labels take a pass over them all: only for what keeps something of every example
    labels = dataset.train.labels if "index" in distiller.needs else None
    models_of = tuple(t.network.model for t in taught_by)
    variables = (models.shapes(t.network.model, t.network.image_shape)[0] for t in taught_by)
    context_of = partial(
        make_init_context, network.model, models_of,
        image_shape=network.image_shape, needs=distiller.needs, num_examples=n, labels=labels,
        steps_per_epoch=per_epoch, initial_vars=given[0],
    )  # fmt: skip
    context = context_of(batch_size=batch)
    check_graft(phase)
    check_maps(phase, members, [network, *(t.network for t in taught_by)], context)
    check_needs(phase, members, {"student": [network], "teacher": [t.network for t in taught_by]}, context)
    _check_start(phase, given[0], distiller.needs)
    per_device = devices > 1 and recipe.parallel.scope == "device"
    checked = context_of(batch_size=batch // devices) if per_device else context  # a loss must accept what it will see
    checked = checked._replace(teachers=tuple(zip(models_of, variables, strict=True)))
    schedule, task = optimizers.make_schedule(phase, steps, per_epoch), optimizers.task_labels(phase, distiller)
    parts = {"student": network.model, "distiller": distiller, "context": checked}
    parts |= {"trains": phase.trains, "ema": phase.ema is not None}
    abstract = at(phase.name, abstract_state, **parts, tx=optax.identity())  # the optimiser depends on its parameters
    if phase.trains == "method" and (distiller.search or not abstract.params["method"]):
        why = "a search moves the student too" if distiller.search else "no member has parameters of its own"
        raise InputError(f"config.{phase.name}.trains: method, but {why}")
    if recipe.precision != "float32" and distiller.search and distiller.search.hypergradient == "finite":
        message = f"bfloat16, but {phase.name}'s search takes finite differences, which bfloat16 rounds away"
        raise InputError(f"config.precision: {message}; accepted: float32, or hypergradient=exact")
    optimizers.check_accumulate(phase, network.model, distiller, abstract, checked, devices)
    dependencies = optimizers.term_dependencies(phase, network.model, distiller, task, abstract, checked)
    tx = optimizers.make_optimizer(phase, schedule, distiller.lr_multipliers, dependencies)
    abstract = abstract._replace(opt=jax.eval_shape(tx.init, trained(abstract.params, phase.trains)))
    return PhasePlan(
        phase, network, taught_by, distiller, schedule, tx, context, steps, per_epoch,
        eval_every=recipe.eval.every * per_epoch,
        save_every=recipe.checkpoint.every or per_epoch,
        split=_split(phase, distiller.search, n, steps, per_epoch),
        abstract=abstract,
        task=task,
        given=given[1],
    )  # fmt: skip
