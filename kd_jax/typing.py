"""The records that every part of kd_jax speaks, and the legend of axes.

Axes: B batch, K classes, H W C a feature map (images too: NHWC), D pooled width, L stages.
Everything here is a NamedTuple, hence a pytree: jit, grad and Orbax take it as it is.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
Terms = dict[str, Array]  # each (B,), or () where the loss is about the batch as a whole
Logs = dict[str, Any]  # each (B,), (), or a Mean (a ratio of two sums); reported, never summed
# image (B, H, W, C), label (B,), index (B,), mask (B,); views: name -> {image, teachers}, see View.extra_views
Batch = dict[str, Any]
Schedule = Callable[[Array], Array]  # step -> value


class InputError(ValueError):
    """What the user gave is wrong. The message is one line: what, where, what is accepted."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters of it; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def suggest(name: str, known: Iterable[str]) -> str:
    """What an error says after an unknown name: the nearest known one, letter case aside, and all of them."""
    spelled = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), spelled, n=1)
    hint = f"did you mean {spelled[close[0]]}? " if close else ""
    return f"{hint}known: {', '.join(spelled.values())}"


class Mean(NamedTuple):
    """A mean kept as its two sums, so that means of means are exact. Both ()."""

    total: Array
    count: Array


class Outputs(NamedTuple):
    """What a network returns.

    stages: tuple of L maps (B, H, W, C), the stem first (mdistiller's `feats`).
    preacts: the same maps before their last ReLU, or None where the net has none.
    pooled: (B, D), what the classifier reads. logits: (B, K), float32.
    cam: class activation maps (B, H, W, K), the classifier at every place of the last map, whose mean over places
    is the logits; or None.
    """

    stages: tuple[Array, ...]
    preacts: tuple[Array, ...] | None
    pooled: Array
    logits: Array
    cam: Array | None = None

    @property
    def ends_in_a_stage(self) -> bool:
        """Whether the classifier reads the last stage, behind its ReLU, and not something made of it."""
        return self.preacts is not None and self.preacts[-1].shape[-1] == self.pooled.shape[-1]


class Variables(NamedTuple):
    """A network's parameters and its BatchNorm running statistics."""

    params: PyTree
    stats: PyTree


class Match(NamedTuple):
    """The pair of logits (B, K) that logit criteria compare; raw until a refiner changes it.

    temperature is None until a refiner sets it; then criteria use it unless told otherwise.
    """

    student: Array
    teacher: Array
    temperature: Array | float | None = None


class View(NamedTuple):
    """All that a distiller sees of one batch. Refiners return a changed copy.

    teachers: one Outputs for every teacher, detached. match: None in a phase without teacher.
    index: (B,) positions in the training set. step: () steps done. spatial_mask: None, or a mask
    (B, H, W, 1) of the areas that feature criteria should look at. extra_views: the same examples seen otherwise, as
    far as a member needs it: "strong", from images augmented more strongly; "alone.1", as the second teacher by
    itself sees them.
    """

    image: Array
    student: Outputs
    teachers: tuple[Outputs, ...]
    match: Match | None
    labels: Array
    index: Array | None
    step: Array
    spatial_mask: Array | None = None
    extra_views: dict[str, Any] = {}  # of View; never changed in place


class InitContext(NamedTuple):
    """What a distiller's `init` may know.

    view_shapes: a View of ShapeDtypeStructs. labels: (N,) of the training set, or None.
    teachers: one (model, Variables) for every teacher; Variables may be shapes only while a
    recipe is being checked. initial_vars: label -> Vars of the members of an earlier phase that this one starts with.
    """

    view_shapes: View
    num_classes: int
    num_examples: int = 0
    labels: Any = None
    teachers: tuple = ()
    steps_per_epoch: int = 1
    initial_vars: Mapping[str, Any] = MappingProxyType({})


class Vars(NamedTuple):
    """A distiller's own variables: params get the loss's gradient, stats get none, policy gets
    the gradient of an outer objective."""

    params: PyTree
    stats: PyTree
    policy: PyTree


class RowUpdate(NamedTuple):
    """In the statistics that `apply` returns: a table of which this batch writes some rows.

    table: (N, ...) as it was. index: (B,) int32, which rows, each once. rows: (B, ...), their new content. The step
    writes them, those of all devices; all else is averaged over the devices, integers are left.
    """

    table: Array
    index: Array
    rows: Array


class AuxNetwork(NamedTuple):
    """A network that a method owns and trains beside the student. name: of the model."""

    name: str
    model: Any
    variables: Variables


class Monitor(NamedTuple):
    """A log that the run's picture shows, and the value below which the run warns, once.

    log: its name, or a pattern ("branch*/top1"). minimum: None never warns. unit: logs of one unit
    share a panel.
    """

    log: str
    minimum: float | None = None
    message: str = ""
    unit: str = "share"


class Search(NamedTuple):
    """How the policy of a method is searched, step by step beside training (kd_jax.engine.bilevel).

    epochs: how long; the policy stays as it is then. every: steps between policy steps. holdout: share of the
    training set that only the outer loss sees while the search lasts; 0 takes the next batch in order.
    outer: whether the outer loss is "plain" (no policy in it) or "refined" (the same policy). hypergradient:
    "exact", or "finite" differences. rate, betas, decay: of Adam over the policy.
    score: (policy, key, value) -> the part of the policy's gradient that no differentiation gives, from the value
    of the outer loss at the sample that `apply` draws with that key; None where there is no such part.
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
    """How a step treats parameters that are split over devices.

    gather: tree -> the tree, whole on every device, for use. split: tree -> the tree, every leaf in its parts, for
    gradients.
    """

    gather: Callable
    split: Callable


WHOLE = ParamSharding(lambda tree: tree, lambda tree: tree)  # parameters that are not split


class Distiller(NamedTuple):
    """A distillation method as a value, as an optax transformation is an optimiser.

    init: (key, context) -> Vars.
    apply: (vars, view, key, train) -> (view, terms, logs, stats).
    needs: what the view must hold: "match", "teacher.stages", "teacher.preacts", "index", "strong", ...
    lr_multipliers: learning rate of the method's parameters as a multiple of the phase's.
    monitors: logs that deserve a look.
    search: how its policy is found, if it has one that is.
    visualizations: (vars, view) -> name -> (B, H, W), what it sees where in an image; drawn at the end of a phase.
    refines: of a refiner, the needs of terms that can see its work.
    networks: vars -> name -> AuxNetwork, the networks of its own: measured, saved and exported like the student.
    whole_batch: name -> what it does over the whole batch, so that parts of a batch one after the other would be
    another method. Terms of shape () need not say so.

    In terms, logs, lr_multipliers, networks and whole_batch the name "" is the member itself; `chain` puts its
    label there.
    """

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
