"""The records that every part of kd_jax speaks, and the legend of axes.

Axes: B batch, K classes, H W C a feature map (images too: NHWC), D pooled width, L stages. Records are pytrees.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
Terms = dict[str, Array]  # each (B,), or () where the loss is about the batch as a whole
Logs = dict[str, Any]  # each (B,), (), or a Mean (a ratio of two sums); reported, never summed
# image (B, H, W, C), label, index, mask (B,), soft_label (B, K); views: name -> {image, teachers}, see View.extra_views
Batch = dict[str, Any]
Schedule = Callable[[Array], Array]  # step -> value


class InputError(ValueError):
    """What the user gave is wrong. The message is one line: what, where, what is accepted."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters of it; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def suggest(name: str, accepted: Iterable[str]) -> str:
    """What an error says after an unknown name: the nearest accepted one, letter case aside, and all of them."""
    spelled = {k.lower(): k for k in accepted}
    close = get_close_matches(name.lower(), spelled, n=1)
    hint = f"did you mean {spelled[close[0]]}? " if close else ""
    return f"{hint}known: {', '.join(spelled.values())}"


class Mean(NamedTuple):
    """A mean as its two sums, both (), so that means of means are exact."""

    total: Array
    count: Array


class Outputs(NamedTuple):
    """What a network returns.

    stages: L maps (B, H, W, C), the stem first (mdistiller's `feats`). preacts: these before their last ReLU, or None.
    pooled: (B, D), what the classifier reads. logits: (B, K), float32.
    cam: class activation maps (B, H, W, K), the classifier at every place of the last map, whose mean is the logits.
    distill_logits: (B, K) of a student's distillation token, which `match` then has in place of logits; or None.
    """

    stages: tuple[Array, ...]
    preacts: tuple[Array, ...] | None
    pooled: Array
    logits: Array
    cam: Array | None = None
    distill_logits: Array | None = None

    @property
    def ends_in_a_stage(self) -> bool:
        """Whether the classifier reads the last stage, behind its ReLU, and not something made of it."""
        return self.preacts is not None and self.preacts[-1].shape[-1] == self.pooled.shape[-1]


class Variables(NamedTuple):
    """A network's parameters and its BatchNorm running statistics."""

    params: PyTree
    stats: PyTree


class Match(NamedTuple):
    """The pair of logits (B, K) that logit criteria compare, raw until a refiner changes it. temperature: () or (B, 1),
    None until a refiner sets it; criteria without one of their own use it. teacher_temperature: where it is another.
    normalize: a Partial, what refiners do to both sides alike; see `methods.comparable`."""

    student: Array
    teacher: Array
    temperature: Array | float | None = None
    teacher_temperature: Array | float | None = None
    normalize: Callable[[Array], Array] | None = None


class View(NamedTuple):
    """All that a distiller sees of one batch. Refiners return a changed copy.

    teachers: one Outputs for every teacher, detached. match: None in a phase without teacher. labels: (B,) or None; of
    mixed images the class that has the most, soft_labels (B, K) the shares of all. index: (B,) places in the
    training set. step: () steps done. spatial_mask: None, or a mask (B, H, W, 1) of areas for feature criteria.
    extra_views: the same examples otherwise, as needed: "strong", from more strongly augmented images; "alone.1", as
    the second teacher alone sees them. apply_student: (stats, x, name, after=-1) -> (Outputs, stats): the student on
    other images, or from a stage on; student_stats: its BatchNorm's so far (see `methods.look_again`).
    """

    image: Array
    student: Outputs
    teachers: tuple[Outputs, ...]
    match: Match | None
    labels: Array | None
    index: Array | None
    step: Array
    spatial_mask: Array | None = None
    extra_views: dict[str, Any] = {}  # of View; never changed in place
    apply_student: Callable | None = None  # a jax.tree_util.Partial, whose arrays are the parameters
    student_stats: PyTree = None
    soft_labels: Array | None = None


class Need(StrEnum):
    """What a member reads of a view beside what every view has; strings, like `alone(i)` and the others below."""

    MATCH = "match"  # the pair of logits, so a teacher
    MATCH_TEMPERATURE = "match.temperature"  # the temperature that a refiner sets
    STUDENT_PREACTS = "student.preacts"
    STUDENT_CAM = "student.cam"
    STUDENT_DISTILL_LOGITS = "student.distill_logits"
    TEACHER_STAGES = "teacher.stages"
    TEACHER_PREACTS = "teacher.preacts"
    TEACHER_POOLED = "teacher.pooled"
    TEACHER_CAM = "teacher.cam"
    INDEX = "index"  # the examples' positions in the training set
    FIXED_TEACHER = "fixed.teacher"  # variables of the first one that stay as they are: InitContext.teachers
    CLASS_CKA = "classes.cka"  # InitContext.class_cka
    LABELS = "labels"


def alone(teacher: int) -> str:
    """The need for `view.extra_views["alone.i"]`: the batch as one of several teachers sees it, counted from 0."""
    return f"alone.{teacher}"


def given(label: str) -> str:
    """The need for `InitContext.initial_vars[label]`: what an earlier phase trained under that label."""
    return f"given.{label}"


def extra_view(name: str) -> str:
    """The need for `view.extra_views[name]`: the batch in other images, which the data makes."""
    return f"view.{name}"


def extra_views_of(needs: Iterable[str]) -> tuple[str, ...]:
    """The names of the extra views among some needs, sorted."""
    return tuple(sorted(need.removeprefix("view.") for need in needs if need.startswith("view.")))


def reads_teachers(needs: Iterable[str]) -> bool:
    """Whether a training step reads the teachers' outputs."""
    return any(need == Need.MATCH or need.startswith(("teacher.", "alone.")) for need in needs)


def check_needs(needs: Iterable[str]) -> None:
    """Refuse a need that nothing can meet, by a ValueError that lists those that can be met."""
    for need in needs:
        kind, _, name = need.partition(".")
        named = name.isdigit() if kind == "alone" else bool(name) and kind in ("given", "view")
        if need not in [*Need] and not named:
            accepted = f"{suggest(need, [*Need])}, alone(i), given(label), extra_view(name)"
            raise ValueError(f"unknown need {need!r}; {accepted}")


class InitContext(NamedTuple):
    """What a distiller's `init` may know.

    view_shapes: a View of ShapeDtypeStructs. student: the network in training. labels: (N,) of the training set, or
    None. teachers: one (model, Variables) for every teacher; Variables may be shapes only while a recipe is checked.
    initial_vars: label -> Vars of members of an earlier phase to start with. steps: of the phase, 0: nobody says.
    class_cka: (K, K), how alike classes are to the first teacher (see `losses.class_cka`); None where nobody says.
    """

    view_shapes: View
    num_classes: int
    student: Any = None  # flax.linen module
    num_examples: int = 0
    labels: Any = None
    teachers: tuple = ()
    steps_per_epoch: int = 1
    initial_vars: Mapping[str, Any] = MappingProxyType({})
    steps: int = 0
    class_cka: Array | None = None


class Vars(NamedTuple):
    """A distiller's variables: params get the loss's gradient, stats none, policy that of an outer objective."""

    params: PyTree
    stats: PyTree
    policy: PyTree


class RowUpdate(NamedTuple):
    """In the statistics that `apply` returns: a table (N, ...) of which this batch writes the rows (B, ...) at index
    (B,) int32, each once. The step writes those of all devices; it averages other statistics and leaves integers."""

    table: Array
    index: Array
    rows: Array


class AuxNetwork(NamedTuple):
    """A network beside the student. name: of the model."""

    name: str
    model: Any
    variables: Variables


class Monitor(NamedTuple):
    """A log that the run's picture shows. log: its name, or a pattern ("branch*/top1"). minimum: the value below which
    the run warns, once; None never warns. unit: logs of one unit share a panel."""

    log: str
    minimum: float | None = None
    message: str = ""
    unit: str = "share"


class Search(NamedTuple):
    """How the policy of a method is searched, step by step beside training (kd_jax.engine.bilevel).

    epochs: how long; the policy stays as it is then. every: steps between policy steps. holdout: share of the
    training set that only the outer loss sees while the search lasts; 0 takes the next batch in order. outer: the
    outer loss is "plain" (no policy in it), "refined" (the same), or its part "consistency". hypergradient: "exact",
    or "finite" differences. rate, betas, decay: of Adam over the policy. score: (policy, key, outer loss) -> what
    differentiation does not give of the policy's gradient, for the sample that `apply` draws with that key; or None.
    """

    epochs: int
    every: int = 1
    holdout: float = 0.0
    outer: str = "plain"
    hypergradient: str = "exact"
    rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    decay: float = 1e-3
    score: Callable | None = None


class ParamSharding(NamedTuple):
    """Parameters that are split over devices. gather: tree -> the whole tree on every device, for use. split: tree ->
    the tree, every leaf in its parts, for gradients."""

    gather: Callable
    split: Callable


WHOLE = ParamSharding(lambda tree: tree, lambda tree: tree)  # parameters that are not split


class _Distiller(NamedTuple):
    init: Callable
    apply: Callable
    needs: frozenset = frozenset()
    lr_multipliers: Mapping[str, float] = MappingProxyType({})
    monitors: tuple[Monitor, ...] = ()
    search: Search | None = None
    visualizations: Callable | None = None
    refines: frozenset = frozenset()
    networks: Callable | None = None
    whole_batch: Mapping[str, str] = MappingProxyType({})
    task_terms: frozenset = frozenset()
    starts: Callable | None = None


class Distiller(_Distiller):
    """A distillation method as a value, as an optax transformation is an optimiser.

    init: (key, context) -> Vars.
    apply: (vars, view, key, train) -> (view, terms, logs, stats).
    needs: what the view must hold: members of Need, `alone(i)`, `given(label)`, `extra_view(name)`.
    lr_multipliers: learning rate of the method's parameters as a multiple of the phase's.
    monitors: logs that deserve a look. search: how its policy is found, if it has one that is.
    visualizations: (vars, view) -> name -> (B, H, W), what it sees where in an image; drawn at the end of a phase.
    refines: of a refiner, the needs of terms that can see its work.
    networks: vars -> name -> AuxNetwork, the networks of its own: measured, saved and exported like the student.
    whole_batch: name -> what it does over the whole batch, so that parts of a batch one after the other would be
    another method. Terms of shape () need not say so. task_terms: the names of its terms that are the task's own
    loss. starts: vars -> name -> AuxNetwork, networks or parts of them that a later phase may start from.

    In terms, logs, lr_multipliers, networks, whole_batch, task_terms and starts the name "" is the member itself;
    `chain` puts its label there.

    Raises:
      ValueError: a need that nothing can meet.
    """

    __slots__ = ()

    def __new__(cls, *fields, **named):
        """Make it and check its needs."""
        distiller = super().__new__(cls, *fields, **named)
        check_needs(distiller.needs | distiller.refines)
        return distiller

    def _replace(self, **changes) -> "Distiller":
        return type(self)(**{**self._asdict(), **changes})
