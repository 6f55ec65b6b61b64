"""TrainState, and its first value."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kd_jax.engine.optim import policy_adam
from kd_jax.methods.base import fold
from kd_jax.models import base as models
from kd_jax.typing import Array, Distiller, InitContext, Match, Outputs, PyTree, Variables, Vars, View


class TrainState(NamedTuple):
    """All that training changes, and nothing else: no key, no data position, no teacher.

    step: () int32, steps done. params, stats: {"student": ..., "method": ...}. opt: the state of
    one optax object over params. policy, policy_opt: what an outer objective trains. ema: the student's
    params and stats averaged over the steps, or {}.
    """

    step: Array
    params: PyTree
    stats: PyTree
    opt: PyTree
    policy: PyTree
    policy_opt: PyTree
    ema: PyTree = {}

    @property
    def student(self) -> Variables:
        """The network in training, without the method's own parts."""
        return Variables(self.params["student"], self.stats["student"])


def as_teachers(teacher_outputs: Outputs | tuple[Outputs, ...] | None) -> tuple[Outputs, ...]:
    """One teacher, several or none, as a tuple."""
    if teacher_outputs is None:
        return ()
    return (teacher_outputs,) if isinstance(teacher_outputs, Outputs) else tuple(teacher_outputs)


def mean_logits(teachers: tuple[Outputs, ...]) -> Array:
    """What several teachers say together: their averaged logits (B, K)."""
    return sum(t.logits for t in teachers) / len(teachers)


def make_view(
    image, student: Outputs, teachers: tuple[Outputs, ...], batch, step, *, needs=frozenset(), extra_views=None
) -> View:
    """The view before any refiner. Several teachers are matched by their averaged logits.

    Args:
      image, student, teachers, step: see View.
      batch: label and, if there is one, index.
      needs: of the distiller; of the views of single teachers, it gets those that stand there.
      extra_views: views that are made already.
    """
    match = Match(student.logits, mean_logits(teachers)) if teachers else None
    labels, index = batch["label"], batch.get("index")
    view = View(image, student, teachers, match, labels, index, step, extra_views=extra_views or {})
    alone = {f"alone.{i}": teachers[i : i + 1] for i in range(len(teachers)) if f"alone.{i}" in needs}
    single = {name: make_view(image, student, one, batch, step) for name, one in alone.items()}
    return view._replace(extra_views=view.extra_views | single) if single else view


def make_init_context(
    student: nn.Module,
    teachers: tuple[nn.Module, ...],
    *,
    image_shape: tuple[int, ...],
    batch_size: int,
    needs: frozenset = frozenset(),
    **known,
) -> InitContext:
    """What a distiller's init may know, for batches of images (H, W, C); computes shapes only.

    Args:
      student: network in training.
      teachers: their networks, in order.
      image_shape: (H, W, C).
      batch_size: B.
      needs: of the distiller, which decide what other views there are.
      **known: other fields of InitContext.
    """

    def view(image, label):
        outputs = [models.apply(m, models.init(m, jax.random.key(0), image), image)[0] for m in (student, *teachers)]
        batch, step = {"label": label, "index": label}, jnp.zeros((), jnp.int32)
        given = (image, outputs[0], tuple(outputs[1:]), batch, step)
        others = {"strong": make_view(*given)} if "strong" in needs else {}
        return make_view(*given, needs=needs, extra_views=others)

    image = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    shapes = jax.eval_shape(view, image, jax.ShapeDtypeStruct((batch_size,), jnp.int32))
    return InitContext(shapes, num_classes=shapes.student.logits.shape[-1], **known)


def init_state(
    key: Array,
    *,
    student: nn.Module,
    distiller: Distiller,
    tx: optax.GradientTransformation,
    context: InitContext,
    trains: str = "all",
    ema: bool = False,
) -> TrainState:
    """The state before the first step; pure, jittable with the keyword arguments bound.

    The student's part depends on `key` alone, never on the distiller: the same student in two
    phases starts the same.

    Args:
      key: PRNG key.
      student: network in training.
      distiller: what it is trained by.
      tx: optimiser over {"student": ..., "method": ...}.
      context: what the distiller's init may know; the student's input shape is read from it.
      trains: "all", or "method": tx is then over {"method": ...}.
      ema: whether an average of the student is kept; it starts as the student.
    """
    net = models.init(student, fold(key, "student"), jnp.zeros((1, *context.view_shapes.image.shape[1:])))
    own = with_given(distiller.init(fold(key, "method"), context), context.initial_vars)
    params = {"student": net.params, "method": own.params}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats={"student": net.stats, "method": own.stats},
        opt=tx.init(trained(params, trains)),
        policy=own.policy,
        policy_opt=policy_adam(distiller.search).init(own.policy) if distiller.search else {},
        ema=net._asdict() if ema else {},
    )


def trained(params: PyTree, trains: str) -> PyTree:
    """The part of the parameters that a step changes."""
    return params if trains == "all" else {"method": params["method"]}


def with_given(made: Vars, given: Mapping[str, Vars]) -> Vars:
    """A chain's variables; members whose labels stand in `given` start with those.

    What is given may have dicts where a member has tuples, as a checkpoint has it: values are matched by the names of
    their places (keys, fields, positions), and the member keeps its own structure.

    Raises:
      ValueError: a member of other places or shapes than the one that is given.
    """
    for label in given.keys() & (made.params | made.stats).keys():
        for members, values in ((made.params, given[label].params), (made.stats, given[label].stats)):
            replaced = _replaced(label, members.get(label, {}), values)
            members |= {label: replaced} if values else {}
    return made


def _replaced(label: str, member: PyTree, values: PyTree) -> PyTree:
    """The structure of a member with the values of a tree of the same places."""
    by_place = {_place(path): value for path, value in jax.tree_util.tree_leaves_with_path(values)}
    shapes = {_place(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(member)}
    if shapes != {place: jnp.shape(value) for place, value in by_place.items()}:
        raise ValueError(f"{label}: its variables and those that it is to start with have different shapes")
    return jax.tree_util.tree_map_with_path(lambda path, _: by_place[_place(path)], member)


def _place(path: tuple) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def abstract_state(*, context: InitContext, **kwargs) -> TrainState:
    """`init_state` as shapes, without computing anything; what is given may be shapes too."""

    def make(key: Array, given: dict) -> TrainState:
        return init_state(key, context=context._replace(initial_vars=given), **kwargs)

    return jax.eval_shape(make, jax.random.key(0), dict(context.initial_vars))
