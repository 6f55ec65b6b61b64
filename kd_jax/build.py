"""Where names meet code: a validated Phase becomes networks, a distiller and an optimiser.

Everything is built and checked before the first phase trains: a mistake in the student's terms is
found at once, not after the teacher's hours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import optax
from etils import epath

from kd_jax import config, data, methods, models, recipes, teachers
from kd_jax.data.resident import Split
from kd_jax.engine import optim
from kd_jax.engine.state import TrainState, abstract_state, make_facts
from kd_jax.teachers import Loaded, Network, Teacher
from kd_jax.typing import Distiller, Facts, InputError, Schedule, Search


@dataclass(frozen=True)
class Job:
    """A phase, ready to run. Times in steps. split: what a search of a policy holds out, and for how long.
    weights: what to load in place of training. start: what to begin with, the network or a part of it."""

    phase: config.Phase
    network: Network
    teachers: tuple[Teacher, ...]
    distiller: Distiller
    schedule: Schedule
    tx: optax.GradientTransformation
    facts: Facts
    steps: int
    steps_per_epoch: int
    eval_every: int
    save_every: int
    split: Split
    abstract: TrainState
    weights: Callable[[], Loaded] | None = None
    start: Callable[[], Loaded] | None = None

    @property
    def needs_teachers(self) -> bool:
        """Whether training reads the teachers' outputs (agreement alone needs them in tests only)."""
        return any(need == "match" or need.startswith("teacher") for need in self.distiller.needs)


def plan(recipe: config.Recipe, dataset: data.Dataset, workdir: epath.Path, devices: int = 1) -> tuple[Job, ...]:
    """Every phase of a recipe, built and checked.

    Args:
      recipe: validated.
      dataset: loaded.
      workdir: where phases keep their checkpoints.
      devices: the batch must divide by it.

    Raises:
      InputError: naming the phase's key.
    """
    networks, jobs = {}, []
    for phase in recipe.phases:
        networks[phase.name], load = _weights(phase, _network(phase, dataset), workdir)
        taught_by = tuple(_teacher(phase, origin, networks, workdir) for origin in phase.teacher)
        job = _job(recipe, phase, dataset, networks[phase.name], taught_by, devices)
        start = _start(recipe, phase, networks, workdir)
        jobs.append(replace(job, weights=load, steps=0) if load else replace(job, start=start))
    return tuple(jobs)


def _at(key: str, function, *args, **kwargs):
    """Call, and put the config key in front of what the function refuses."""
    try:
        return function(*args, **kwargs)
    except ValueError as e:
        raise InputError(f"config.{key}: {e}") from e


def _network(phase: config.Phase, dataset: data.Dataset) -> Network:
    classes = dataset.train.num_classes
    model = _at(f"{phase.name}.model", models.create, phase.model, classes)
    return Network(phase.model, model, classes, dataset.train.shape, dataset.mean, dataset.std)


def _weights(phase: config.Phase, network: Network, workdir: epath.Path) -> tuple[Network, Callable[[], Loaded] | None]:
    """What a phase with `weights` loads in place of training, and the network with the normalisation that
    its weights go with. The file is read and checked at once, unless the run has its content already."""
    if not phase.weights:
        return network, None
    load, key = teachers.loader(phase.weights, network), f"{phase.name}.weights"
    if (workdir / phase.name / "DONE").exists():
        return _at(key, teachers.from_checkpoint, str(workdir / phase.name)).network, load
    return teachers.own_normalisation(_at(key, load).about, network), load


def _teacher(phase: config.Phase, origin: str, networks: dict[str, Network], workdir: epath.Path) -> Teacher:
    kind, _, where = origin.partition(":")
    own = networks[phase.name]
    if kind == "phase":
        return teachers.of_phase(where, networks[where], workdir / where)
    key = f"{phase.name}.teacher"
    if kind == "checkpoint":
        teacher = _at(key, teachers.from_checkpoint, where)
    else:
        teacher = _at(key, teachers.from_file, where, own)
    for what, theirs, ours in (
        ("classes", teacher.network.num_classes, own.num_classes),
        ("image shape", teacher.network.image_shape, own.image_shape),
    ):
        if theirs != ours:
            raise InputError(f"config.{key}: {origin}: its {what} is {theirs}, the data's is {ours}")
    return teacher


def _start(recipe, phase: config.Phase, networks: dict[str, Network], workdir: epath.Path):
    """What reads the weights that a phase begins with; None where they are random."""
    origin, key, own = phase.init.student, f"{phase.name}.init.student", networks[phase.name]
    if not origin:
        return None
    kind, _, where = origin.partition(":")
    name, _, label = where.partition("/")
    if kind == "weights":
        load = teachers.loader(where, own)
        _at(key, load)
        return load
    if kind == "phase" and label:
        terms = {m.label: m for m in next(p for p in recipe.phases if p.name == name).terms}
        if label not in terms or terms[label].kind != "sftn_branches":
            raise InputError(f"config.{key}: {origin}: {name} has no term {label!r} of kind sftn_branches")
        model, load = terms[label].kwargs["student"], teachers.from_branch(workdir / name, label)
    else:
        other = teachers.of_phase(name, networks[name], workdir / name) if kind == "phase" else None
        other = other or _at(key, teachers.from_checkpoint, where)
        model, load = other.network.name, other.load
        if other.network.num_classes != own.num_classes:
            raise InputError(f"config.{key}: {origin}: has {other.network.num_classes} classes, not {own.num_classes}")
    if model.lower() != own.name.lower():
        raise InputError(f"config.{key}: {origin}: is a {model}, but config.{phase.name}.model is {own.name}")
    return load


def members_of(phase: config.Phase, steps_per_epoch: int) -> dict[str, Distiller]:
    """label -> refiner or criterion of a phase, in the order they apply.

    Raises:
      InputError: naming the key of what a factory does not take.
    """
    groups = {"refine": phase.refine, "terms": phase.terms}
    return {m.label: _member(phase, part, m, steps_per_epoch) for part, group in groups.items() for m in group}


def _member(phase: config.Phase, part: str, member: config.Member, steps_per_epoch: int) -> Distiller:
    at = f"{phase.name}.{part}.{member.label}"
    known = methods.REFINERS if part == "refine" else methods.CRITERIA
    make = _at(at, recipes.factory, member.kind)
    if member.kind not in known:
        raise InputError(f"config.{at}.kind: {member.kind} does not belong here; known: {', '.join(known)}")
    names = recipes.signature(member.kind)
    kwargs = {}
    for name, value in member.kwargs.items():
        if name not in names:
            raise InputError(f"config.{at}.{name}: unknown key; known: {', '.join(names)}")
        kind, optional, _ = names[name]
        kwargs[name] = config.typed(value, kind | None if optional else kind, f"{at}.{name}")
    weight = kwargs.get("weight", names["weight"][2]) if "weight" in names else 0.0
    if member.warmup_epochs and weight:
        kwargs["weight"] = methods.ramp(weight, epochs=member.warmup_epochs, steps_per_epoch=steps_per_epoch)
    return _at(at, make, **kwargs)


def _schedule(phase: config.Phase, steps: int, steps_per_epoch: int) -> Schedule:
    warmup = round(phase.schedule.warmup_epochs * steps_per_epoch)
    if phase.schedule.name == "cosine":
        return optim.cosine_schedule(phase.optim.lr, steps=steps, warmup=warmup)
    milestones = tuple(round(m * steps_per_epoch) for m in phase.schedule.milestones)
    return optim.step_schedule(phase.optim.lr, milestones=milestones, gamma=phase.schedule.gamma, warmup=warmup)


def _optimiser(phase: config.Phase):
    shared = {"momentum": phase.optim.momentum, "weight_decay": phase.optim.weight_decay}
    if phase.optim.name == "adamw":
        return partial(optim.adamw, **shared)
    return partial(optim.sgd, nesterov=phase.optim.nesterov, **shared)


_OPTIONAL = {"preacts": "pre-activation features", "cam": "class activation maps"}  # of Outputs


def _check_needs(phase: config.Phase, members: dict[str, Distiller], networks: dict[str, list], facts: Facts) -> None:
    """Refuse a member that needs what is not there. networks: by seat ("student", "teacher")."""
    seen = {"student": [facts.view_shapes.student], "teacher": facts.view_shapes.teachers}
    for refiner in phase.refine:
        refines = members[refiner.label].refines
        if refines and not any(members[term.label].needs & refines for term in phase.terms):
            at = f"config.{phase.name}.refine.{refiner.label}"
            raise InputError(f"{at}: no term can see its work; give one that needs {' or '.join(sorted(refines))}")
    for label, need in ((label, need) for label, member in members.items() for need in sorted(member.needs)):
        seat, _, what = need.partition(".")
        if (need == "match" or seat == "teacher") and not seen["teacher"]:
            raise InputError(f"config.{phase.name}.teacher: none, but the phase's refiners or terms need one")
        for network, outputs in zip(networks.get(seat, ()), seen.get(seat, ()), strict=True):
            if what in _OPTIONAL and getattr(outputs, what) is None:
                part = "refine" if label in {m.label for m in phase.refine} else "terms"
                lacking = f"needs {_OPTIONAL[what]} ({need}), which {network.name} has not"
                raise InputError(f"config.{phase.name}.{part}.{label}: {lacking}")


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
    return Split(min(steps, search.epochs * steps_per_epoch), held_out)


def _job(recipe, phase, dataset, network, taught_by, devices) -> Job:
    n, batch = len(dataset.train), phase.batch_size
    if batch > n:
        raise InputError(f"config.{phase.name}.batch_size: {batch}, but there are {n} training examples")
    if batch % devices:
        raise InputError(f"config.{phase.name}.batch_size: {batch} does not divide by the {devices} devices")
    per_epoch = n // batch
    steps = phase.steps or phase.epochs * per_epoch
    members = members_of(phase, per_epoch)
    distiller = _at(phase.name, methods.chain, **members)
    known = {"num_examples": n, "labels": dataset.train.labels, "steps_per_epoch": per_epoch}
    models_of = tuple(t.network.model for t in taught_by)
    facts_of = partial(make_facts, network.model, models_of, image_shape=network.image_shape, **known)
    facts = facts_of(batch_size=batch)
    _check_needs(phase, members, {"student": [network], "teacher": [t.network for t in taught_by]}, facts)
    schedule = _schedule(phase, steps, per_epoch)
    tx = optim.grouped(_optimiser(phase), schedule, distiller.rates)
    variables = (models.shapes(t.network.model, t.network.image_shape)[0] for t in taught_by)
    per_device = devices > 1 and recipe.parallel.scope == "device"
    checked = facts_of(batch_size=batch // devices) if per_device else facts  # a loss must accept what it will see
    checked = checked._replace(teachers=tuple(zip(models_of, variables, strict=True)))
    parts = {"student": network.model, "distiller": distiller, "tx": tx, "facts": checked}
    abstract = _at(phase.name, abstract_state, **parts)
    return Job(
        phase, network, taught_by, distiller, schedule, tx, facts, steps, per_epoch,
        eval_every=recipe.eval.every * per_epoch,
        save_every=recipe.checkpoint.every or per_epoch,
        split=_split(phase, distiller.search, n, steps, per_epoch),
        abstract=abstract,
    )  # fmt: skip
