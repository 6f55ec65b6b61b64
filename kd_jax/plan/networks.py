"""Where the networks of a phase come from: its own, its teachers', and what it starts with."""

from collections.abc import Callable, Mapping

from etils import epath

from kd_jax import config, data, models
from kd_jax.config import config_key
from kd_jax.distributed import processes
from kd_jax.interop.loaded import Loaded, loader, own_normalization
from kd_jax.models.graft import HEAD, head_of, parse
from kd_jax.models.network import Network
from kd_jax.plan.teachers import (
    Teacher,
    from_checkpoint,
    from_file,
    from_logits,
    from_python,
    method_reader,
    of_phase,
)
from kd_jax.storage.networks import network_digest
from kd_jax.storage.workdir import resolve_path
from kd_jax.typing import InputError, Variables, Vars


def network_of(phase: config.Phase, dataset: data.Dataset) -> Network:
    """The network in training."""
    classes = dataset.train.num_classes
    model = config_key(f"{phase.name}.model", models.create, phase.model, classes)
    if phase.drop_path:
        key, accepted = f"config.{phase.name}.drop_path", "0 where the network is no vision transformer"
        if not hasattr(model, "drop_path"):
            raise InputError(f"{key}: {phase.drop_path}, but {phase.model} drops no blocks; accepted: {accepted}")
        model = model.clone(drop_path=phase.drop_path)
    return Network(phase.model, model, classes, dataset.train.shape, dataset.mean, dataset.std)


def weights_of(
    phase: config.Phase, network: Network, workdir: epath.Path
) -> tuple[Network, Callable[[], Loaded] | None]:
    """What a phase with `weights` loads in place of training, and the network with the normalisation that
    its weights go with. The file is read and checked at once, unless the run has its content already."""
    if not phase.weights:
        return network, None
    load, key = loader(phase.weights, network), f"{phase.name}.weights"
    if processes.from_main(lambda: (workdir / phase.name / "DONE").exists()):
        return config_key(key, from_checkpoint, str(workdir / phase.name)).network, load
    return own_normalization(config_key(key, load).about, network), load


def teacher_of(
    phase: config.Phase, origin: str, networks: dict[str, Network], workdir: epath.Path, dataset: data.Dataset
) -> Teacher:
    """One teacher.

    Args:
      phase: of the recipe, which it teaches.
      origin: one of `phase.teacher`.
      networks: of this phase and those before it, by name; those that a phase trains beside its own as NAME/LABEL.
      workdir: folder of the run.
      dataset: that it teaches.
    """
    kind, _, where = origin.partition(":")
    student, key = networks[phase.name], f"{phase.name}.teacher"
    if kind == "ema":
        return Teacher(origin, student, None)
    if kind == "phase":
        return _of_phase(key, where, networks, workdir)
    if kind == "python":
        return config_key(key, from_python, where, student, phase.batch_size)
    if kind == "logits":
        return config_key(key, from_logits, where, student, dataset)
    if kind == "checkpoint":
        teacher = config_key(key, from_checkpoint, where)
    else:
        teacher = config_key(key, from_file, where, student)
    for what, theirs, ours in (
        ("classes", teacher.network.num_classes, student.num_classes),
        ("image shape", teacher.network.image_shape, student.image_shape),
    ):
        if theirs != ours:
            raise InputError(f"config.{key}: {origin}: its {what} is {theirs}, the data's is {ours}")
    return teacher


def _of_phase(key: str, where: str, networks: dict[str, Network], workdir: epath.Path) -> Teacher:
    if where not in networks:
        phases = ", ".join(f"phase:{name}" for name in networks if not key.startswith(f"{name}."))  # not itself
        raise InputError(f"config.{key}: phase:{where}: known: {phases}")
    return of_phase(where, networks[where], workdir)


def start_of(
    phase: config.Phase,
    networks: dict[str, Network],
    plans: Mapping,
    teachers: tuple[Teacher, ...],
    workdir: epath.Path,
) -> Callable[[int], Loaded] | None:
    """A function that reads the weights that a seed of a phase starts from; None where they are random. A graft has its
    teacher's classifier from the start.

    Args:
      phase: of the recipe.
      networks: as for `teacher_of`.
      plans: of the phases before, by name.
      teachers: of the phase.
      workdir: folder of the run.
    """
    load, pair = _started(phase, networks, plans, workdir), parse(networks[phase.name].name)
    if pair is None or not phase.teacher:
        return load
    if teachers[0].network.name.lower() != pair[1].lower() or teachers[0].load is None:
        raise InputError(
            f"config.{phase.name}.model: {phase.model} is grafted on a {pair[1]}, but config.{phase.name}.teacher is "
            f"{phase.teacher[0]}, a {teachers[0].network.name}"
        )

    def grafted(seed: int) -> Loaded:
        start = load(seed) if load else Loaded(Variables({}, {}), "")
        classifier = head_of(teachers[0].load().variables)
        return start._replace(variables=start.variables._replace(stats={**start.variables.stats, HEAD: classifier}))

    return grafted


def _started(phase: config.Phase, networks: dict[str, Network], plans: Mapping, workdir: epath.Path):
    """A function that reads, for a seed, the weights that `init.student` names."""
    origin, key, network = phase.init.student, f"{phase.name}.init.student", networks[phase.name]
    if not origin:
        return None
    kind, _, where = origin.partition(":")
    name, _, label = where.partition("/")
    if kind == "weights":
        read = loader(where, network)
        config_key(key, read)
        return lambda seed: read()
    if kind == "phase" and label and where not in networks:
        model, load = _part_of(key, origin, plans[name], label, networks, workdir)
    else:
        phase_of = _of_phase if kind == "phase" else lambda key, where, *_: config_key(key, from_checkpoint, where)
        other = phase_of(key, where, networks, workdir)
        model, load = other.network.name, other.load
        if other.network.num_classes != network.num_classes:
            classes = f"has {other.network.num_classes} classes, not {network.num_classes}"
            raise InputError(f"config.{key}: {origin}: {classes}")
    if model.lower() != network.name.lower():
        raise InputError(f"config.{key}: {origin}: is a {model}, but config.{phase.name}.model is {network.name}")
    return load


def _part_of(key: str, origin: str, plan, label: str, networks: dict[str, Network], workdir: epath.Path):
    """The name of a network that a member of an earlier phase holds a part of, and a function that reads a seed's
    part."""
    starts = plan.distiller.starts or (lambda vars: {})
    labels = starts(Vars(plan.abstract.params["method"], plan.abstract.stats["method"], {}))
    if label not in labels:
        beside = [n.partition("/")[2] for n in networks if n.startswith(f"{plan.name}/")]
        names = ", ".join([*labels, *beside]) or "none"
        raise InputError(f"config.{key}: {origin}: unknown label {label!r} in {plan.name}; known: {names}")
    read = method_reader(workdir / plan.name)

    def load(seed: int) -> Loaded:
        part = starts(read(seed))[label].variables
        return Loaded(part, network_digest(part))

    return labels[label].name, load


def initial_vars_of(phase: config.Phase, methods: dict[str, Vars], workdir: epath.Path):
    """What the members of a phase start with, label -> Vars: as shapes, and a function that reads a seed's.

    Args:
      phase: its `init.method` says where from.
      methods: earlier phase -> shapes of its members' variables.
      workdir: folder of the run.
    """
    kind, _, where = phase.init.method.partition(":")
    if not kind:
        return {}, lambda seed: {}
    key = f"{phase.name}.init.method"
    read = method_reader(workdir / where if kind == "phase" else resolve_path(where))
    if kind == "phase" and where not in methods:
        raise InputError(f"config.{key}: phase:{where}: known: {', '.join(f'phase:{name}' for name in methods)}")
    shapes = methods[where] if kind == "phase" else config_key(key, read)
    return by_label(shapes), lambda seed: by_label(read(seed))


def by_label(vars: Vars) -> dict[str, Vars]:
    """A chain's variables, member by member."""
    return {label: Vars(*(part.get(label, {}) for part in vars)) for label in {**vars.params, **vars.stats}}
