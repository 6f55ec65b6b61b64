"""Where the networks of a phase come from: its own, its teachers', and what it starts with."""

from collections.abc import Callable

from etils import epath

from kd_jax import config, data, models
from kd_jax.config import at
from kd_jax.distributed import processes
from kd_jax.interop.loaded import Loaded
from kd_jax.models.graft import HEAD, head_of, parse
from kd_jax.models.network import Network
from kd_jax.plan import teachers
from kd_jax.plan.teachers import Teacher
from kd_jax.storage.workdir import resolve_path
from kd_jax.typing import InputError, Variables, Vars


def network_of(phase: config.Phase, dataset: data.Dataset) -> Network:
    """The network in training."""
    classes = dataset.train.num_classes
    model = at(f"{phase.name}.model", models.create, phase.model, classes)
    return Network(phase.model, model, classes, dataset.train.shape, dataset.mean, dataset.std)


def weights_of(
    phase: config.Phase, network: Network, workdir: epath.Path
) -> tuple[Network, Callable[[], Loaded] | None]:
    """What a phase with `weights` loads in place of training, and the network with the normalisation that
    its weights go with. The file is read and checked at once, unless the run has its content already."""
    if not phase.weights:
        return network, None
    load, key = teachers.loader(phase.weights, network), f"{phase.name}.weights"
    if processes.from_main(lambda: (workdir / phase.name / "DONE").exists()):
        return at(key, teachers.from_checkpoint, str(workdir / phase.name)).network, load
    return teachers.own_normalization(at(key, load).about, network), load


def teacher_of(phase: config.Phase, origin: str, networks: dict[str, Network], workdir: epath.Path) -> Teacher:
    """One teacher. networks: of this phase and those before it, by name; those that a phase trains beside its own
    as NAME/LABEL."""
    kind, _, where = origin.partition(":")
    own, key = networks[phase.name], f"{phase.name}.teacher"
    if kind == "ema":
        return Teacher(origin, own, None)
    if kind == "phase":
        return _of_phase(key, where, networks, workdir)
    if kind == "checkpoint":
        teacher = at(key, teachers.from_checkpoint, where)
    else:
        teacher = at(key, teachers.from_file, where, own)
    for what, theirs, ours in (
        ("classes", teacher.network.num_classes, own.num_classes),
        ("image shape", teacher.network.image_shape, own.image_shape),
    ):
        if theirs != ours:
            raise InputError(f"config.{key}: {origin}: its {what} is {theirs}, the data's is {ours}")
    return teacher


def _of_phase(key: str, where: str, networks: dict[str, Network], workdir: epath.Path) -> Teacher:
    if where not in networks:
        known = ", ".join(f"phase:{name}" for name in networks if not key.startswith(f"{name}."))  # not itself
        raise InputError(f"config.{key}: phase:{where}: known: {known}")
    return teachers.of_phase(where, networks[where], workdir)


def start_of(recipe, phase: config.Phase, networks: dict[str, Network], taught_by: tuple, workdir: epath.Path):
    """What reads the weights that a phase begins with; None where they are random. A graft has its teacher's
    classifier from the start."""
    load, pair = _started(recipe, phase, networks, workdir), parse(networks[phase.name].name)
    if pair is None or not phase.teacher:
        return load
    if taught_by[0].network.name.lower() != pair[1].lower() or taught_by[0].load is None:
        raise InputError(
            f"config.{phase.name}.model: {phase.model} is grafted on a {pair[1]}, but config.{phase.name}.teacher is "
            f"{phase.teacher[0]}, a {taught_by[0].network.name}"
        )

    def grafted() -> Loaded:
        own = load() if load else Loaded(Variables({}, {}), "")
        classifier = head_of(taught_by[0].load().variables)
        return own._replace(variables=own.variables._replace(stats={**own.variables.stats, HEAD: classifier}))

    return grafted


def _started(recipe, phase: config.Phase, networks: dict[str, Network], workdir: epath.Path):
    """What reads the weights that `init.student` names."""
    origin, key, own = phase.init.student, f"{phase.name}.init.student", networks[phase.name]
    if not origin:
        return None
    kind, _, where = origin.partition(":")
    name, _, label = where.partition("/")
    if kind == "weights":
        load = teachers.loader(where, own)
        at(key, load)
        return load
    if kind == "phase" and label and where not in networks:
        terms = {m.label: m for m in next(p for p in recipe.phases if p.name == name).terms}
        if label not in terms or terms[label].kind != "sftn_branches":
            others = ", ".join(n.partition("/")[2] for n in networks if n.startswith(f"{name}/")) or "none"
            known = f"terms of kind sftn_branches, or networks trained beside it: {others}"
            raise InputError(f"config.{key}: {origin}: unknown label {label!r} in {name}; known: {known}")
        model, load = terms[label].kwargs["student"], teachers.from_branch(workdir / name, label)
    else:
        other = (
            _of_phase(key, where, networks, workdir) if kind == "phase" else at(key, teachers.from_checkpoint, where)
        )
        model, load = other.network.name, other.load
        if other.network.num_classes != own.num_classes:
            raise InputError(f"config.{key}: {origin}: has {other.network.num_classes} classes, not {own.num_classes}")
    if model.lower() != own.name.lower():
        raise InputError(f"config.{key}: {origin}: is a {model}, but config.{phase.name}.model is {own.name}")
    return load


def given_to(phase: config.Phase, methods: dict[str, Vars], workdir: epath.Path):
    """What the members of a phase can start with, label -> Vars: as shapes, and a function that reads it.

    Args:
      phase: its `init.method` says where from.
      methods: earlier phase -> shapes of its members' variables.
      workdir: folder of the run.
    """
    kind, _, where = phase.init.method.partition(":")
    if not kind:
        return {}, dict
    key = f"{phase.name}.init.method"
    read = teachers.method_from(workdir / where if kind == "phase" else resolve_path(where))
    if kind == "phase" and where not in methods:
        raise InputError(f"config.{key}: phase:{where}: known: {', '.join(f'phase:{name}' for name in methods)}")
    shapes = methods[where] if kind == "phase" else at(key, read)
    return by_label(shapes), lambda: by_label(read())


def by_label(vars: Vars) -> dict[str, Vars]:
    """A chain's variables, member by member."""
    return {label: Vars(*(part.get(label, {}) for part in vars)) for label in {**vars.params, **vars.stats}}
