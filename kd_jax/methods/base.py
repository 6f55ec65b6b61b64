"""The combinators: identity, chain, weigh. A distiller is a value, like an optax transformation."""

from collections.abc import Callable

import jax
from flax import linen as nn

from kd_jax.layers.keys import fold
from kd_jax.typing import (
    Array,
    AuxNetwork,
    Distiller,
    InitContext,
    InputError,
    Outputs,
    PyTree,
    Schedule,
    Search,
    Vars,
    View,
    alone,
    extra_views_of,
)  # fmt: skip

NO_VARS = Vars({}, {}, {})


def join(label: str, name: str) -> str:
    """Path of something called `name` inside the member `label`; "" is the member itself."""
    return f"{label}/{name}" if name else label


def no_vars(key: Array, context: InitContext) -> Vars:
    """The `init` of a method without variables of its own."""
    del key, context
    return NO_VARS


def run(layer: nn.Module, params: PyTree, stats: PyTree, *args, train: bool) -> tuple[PyTree, PyTree]:
    """Apply a flax layer. Returns its output and its BatchNorm statistics ({} if none), which training updates."""
    output, updated = layer.apply({"params": params, "batch_stats": stats}, *args, train=train, mutable=["batch_stats"])
    return output, updated.get("batch_stats", {})


def identity() -> Distiller:
    """The distiller that changes nothing and adds nothing: the unit of `chain`."""
    return Distiller(no_vars, lambda vars, view, key, train: (view, {}, {}, {}))


def chain(**members: Distiller) -> Distiller:
    """Run distillers one after the other; each sees the view that those before it refined.

    Refiners therefore stand before the criteria that read what they change. Terms, logs and variables stand under
    the member's label; a label inside a nested chain becomes a path "outer/inner". A member's randomness depends on
    its path alone: it stays the same when another member is added or moved.

    Args:
      **members: label -> Distiller, in order.

    Returns:
      A Distiller.

    Raises:
      InputError: a member that is not a Distiller, a label with a "/" in it, or two members that search a policy.
    """
    for label, member in members.items():
        if not isinstance(member, Distiller):
            raise InputError(f"chain: {label} is a {type(member).__name__}, not a Distiller; call its factory")
        if not label or "/" in label:
            raise InputError(f'chain: label {label!r} must be non-empty and without "/"')

    def init(key: Array, context: InitContext) -> Vars:
        each = {label: member.init(fold(key, label), context) for label, member in members.items()}
        return Vars(*({label: v[i] for label, v in each.items() if v[i]} for i in range(len(NO_VARS))))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        terms, logs, stats = {}, {}, {}
        for label, member in members.items():
            view, new_terms, new_logs, new_stats = member.apply(_of(label, vars), view, fold(key, label), train)
            terms |= {join(label, name): value for name, value in new_terms.items()}
            logs |= {join(label, name): value for name, value in new_logs.items()}
            stats |= {label: new_stats} if new_stats else {}
        return view, terms, logs, stats

    each = members.items()
    return Distiller(
        init,
        apply,
        needs=frozenset().union(*(member.needs for member in members.values())),
        lr_multipliers={join(a, n): factor for a, member in each for n, factor in member.lr_multipliers.items()},
        monitors=tuple(m._replace(log=join(a, m.log)) for a, member in each for m in member.monitors),
        search=_search(members),
        visualizations=_visualizations(members),
        refines=frozenset().union(*(member.refines for member in members.values())),
        networks=_networks(members, "networks"),
        whole_batch={join(a, n): reason for a, member in each for n, reason in member.whole_batch.items()},
        task_terms=frozenset(join(a, n) for a, member in each for n in member.task_terms),
        starts=_networks(members, "starts"),
    )


def _of(label: str, vars: Vars) -> Vars:
    """The variables of one member."""
    return Vars(*(part.get(label, {}) for part in vars))


def _visualizations(members: dict[str, Distiller]) -> Callable | None:
    """Every member's visualizations under its label; each sees the view as it was before any member."""
    functions = {label: member.visualizations for label, member in members.items() if member.visualizations}
    if not functions:
        return None

    def visualizations(vars: Vars, view: View) -> dict[str, Array]:
        return {join(a, n): x for a, draw in functions.items() for n, x in draw(_of(a, vars), view).items()}

    return visualizations


def _networks(members: dict[str, Distiller], field: str) -> Callable | None:
    """Every member's networks under its label. field: "networks" or "starts"."""
    functions = {label: getattr(member, field) for label, member in members.items() if getattr(member, field)}
    if not functions:
        return None

    def networks(vars: Vars) -> dict[str, AuxNetwork]:
        return {join(a, n): network for a, of in functions.items() for n, network in of(_of(a, vars)).items()}

    return networks


def _search(members: dict[str, Distiller]) -> Search | None:
    """The search of the one member that has one, its score under the member's label."""
    searches = {label: member.search for label, member in members.items() if member.search}
    if len(searches) > 1:
        raise InputError(f"chain: {' and '.join(searches)} both search a policy; one can")
    if not searches:
        return None
    ((label, search),) = searches.items()
    if search.score is None:
        return search

    def score(policy, key: Array, value: Array):
        return {label: search.score(policy[label], fold(key, label), value)}

    return search._replace(score=score)


def weigh(distiller: Distiller, weight: float | Schedule) -> Distiller:
    """Scale the terms of a distiller, by a number or by a schedule of `view.step`.

    A weight of exactly 0 gives `identity()`: the member costs nothing and has no variables. A weight of 1 gives the
    distiller itself.

    Raises:
      InputError: a weight that is not finite.
    """
    if not callable(weight):
        if not abs(weight) < float("inf"):
            raise InputError(f"weight must be a finite number or a schedule, got {weight}")
        if weight == 0:
            return identity()
        if weight == 1:
            return distiller

    def apply(vars: Vars, view: View, key: Array, train: bool):
        factor = weight(view.step) if callable(weight) else weight
        view, terms, logs, stats = distiller.apply(vars, view, key, train)
        return view, {name: factor * value for name, value in terms.items()}, logs, stats

    return distiller._replace(apply=apply)


def everywhere(refiner: Distiller) -> Distiller:
    """A refiner that also refines the other views of the batch (`view.extra_views`), with the same variables.

    Its statistics pass from one view to the next; its terms and logs are the first view's.
    """

    def apply(vars: Vars, view: View, key: Array, train: bool):
        refined, terms, logs, stats = refiner.apply(vars, view, key, train)
        others = {}
        for name, other in view.extra_views.items():
            current = vars._replace(stats=stats)
            others[name], _, _, stats = refiner.apply(current, other, fold(key, name), train)
        return refined._replace(extra_views=others), terms, logs, stats

    return refiner._replace(apply=apply)


def look_again(view: View, image: Array, name: str = "again") -> tuple[Outputs, View]:
    """Run the student on other images: a stronger augmentation, mixed images, whatever a method makes.

    Args:
      view: of the batch.
      image: (B, H, W, C), normalised as `view.image`.
      name: of this look. Two looks of one name drop the same blocks of a network with stochastic depth.

    Returns:
      The student's Outputs for them, and the view for whoever comes next: a method returns it, so that BatchNorm's
      running statistics have seen these images too.
    """
    outputs, stats = view.apply_student(view.student_stats, image, name)
    return outputs, view._replace(student_stats=stats)


def taught_by(criterion: Distiller, teacher: int) -> Distiller:
    """A criterion that sees one of several teachers, counted from 0: its logits, not the average; its features, not
    the first one's. Refiners of logits that stand before refine its logits too.

    Raises:
      ValueError: a criterion that compares two views of the batch; fewer teachers than that, when variables are made.
    """
    name = alone(teacher)
    if extra_views_of(criterion.needs):
        raise InputError(f"teacher {teacher}: a criterion on two views of the batch reads all teachers, not one")

    def _single(view: View) -> View:
        return view.extra_views[name]._replace(apply_student=view.apply_student, student_stats=view.student_stats)

    def init(key: Array, context: InitContext) -> Vars:
        if not 0 <= teacher < len(context.view_shapes.teachers):
            raise InputError(f"teacher {teacher}: there are {len(context.view_shapes.teachers)}, counted from 0")
        single = _single(context.view_shapes)
        return criterion.init(key, context._replace(view_shapes=single, teachers=context.teachers[teacher:][:1]))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        after, terms, logs, stats = criterion.apply(vars, _single(view), key, train)
        return view._replace(student_stats=after.student_stats), terms, logs, stats

    return criterion._replace(init=init, apply=apply, needs=criterion.needs | {name})


def ramp(weight: float, *, epochs: int, steps_per_epoch: int) -> Schedule:
    """weight * min(epoch / epochs, 1), the epoch counted from 1 and constant within an epoch.

    The warm-up of DKD and ReviewKD as published.
    """

    def schedule(step: Array) -> Array:
        return weight * jax.numpy.minimum((step // steps_per_epoch + 1) / epochs, 1.0)

    return schedule


def require(method: str, **arguments: tuple) -> None:
    """Refuse arguments that are out of range. arguments: name -> (value, whether it is accepted, the range in words).

    Raises:
      InputError: naming the first argument that is not accepted.
    """
    for name, (value, accepted, accepted_range) in arguments.items():
        if not accepted:
            raise InputError(f"{method}: {name} must be {accepted_range}, got {value!r}")


def require_each(method: str, terms: dict[str, Array]) -> None:
    """Refuse terms of a host that are about the batch as a whole, where a method weighs examples.

    Raises:
      InputError: naming the method.
    """
    if any(value.ndim == 0 for value in terms.values()):
        raise InputError(f"{method}: weighs examples, but a term of its host is one number for the whole batch")


def length_of(method: str, keyword: str, context: InitContext) -> dict[str, Array]:
    """The number of steps of the phase as a statistic "steps" that never changes: a checkpoint has it. It is float32,
    since statistics are averaged over devices.

    Raises:
      InputError: naming the keyword that needs it, where the context does not say.
    """
    if not context.steps:
        raise InputError(f"{method}: {keyword} needs the number of steps: make_init_context(..., steps=N)")
    return {"steps": jax.numpy.float32(context.steps)}
