"""TrainState, and its first value."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kd_jax.engine.optim import policy_adam
from kd_jax.engine.views import student_runner, student_views
from kd_jax.methods.base import fold
from kd_jax.models import base as models
from kd_jax.typing import (
    Array,
    Distiller,
    InitContext,
    InputError,
    Outputs,
    PyTree,
    Variables,
    Vars,
    View,
    extra_views_of,
)


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


def make_init_context(
    student: nn.Module,
    teachers: tuple[nn.Module, ...],
    *,
    image_shape: tuple[int, ...],
    batch_size: int,
    needs: frozenset = frozenset(),
    mixes: bool = False,
    labelled: bool = True,
    **more,
) -> InitContext:
    """What a distiller's init may know, for batches of images (H, W, C); computes shapes only.

    Args:
      student: network in training.
      teachers: their networks, in order.
      image_shape: (H, W, C).
      batch_size: B.
      needs: of the distiller, which decide what other views there are.
      mixes: whether images are mixed, and labels soft.
      labelled: whether there are labels.
      **more: other fields of InitContext.
    """
    (variables, outputs), *others = (models.shapes(m, image_shape, batch_size) for m in (student, *teachers))
    rows = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    image = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)

    def view(outputs: Outputs, teachers: tuple[Outputs, ...], image: Array, rows: Array, step: Array) -> View:
        batch = {"image": image, "index": rows} | ({"label": rows} if labelled else {})
        batch |= {"soft_label": outputs.logits} if labelled and mixes else {}
        batch["views"] = {name: {"image": image, "teachers": teachers} for name in extra_views_of(needs)}
        batch_view = student_views(lambda stats, *_: (outputs, stats), {}, teachers, batch, step, needs)
        return batch_view._replace(apply_student=None)

    step = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = jax.eval_shape(view, outputs, tuple(theirs for _, theirs in others), image, rows, step)
    run = student_runner(student, variables.params, jax.eval_shape(jax.random.key, 0), train=True)
    shapes = shapes._replace(apply_student=run, student_stats=variables.stats)
    return InitContext(shapes, num_classes=outputs.logits.shape[-1], student=student, **more)


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
    image = jnp.zeros((1, *context.view_shapes.image.shape[1:]))
    network = models.init(student, fold(key, "student"), image)
    return _state(network, key, distiller, tx, context, trains, ema)


def abstract_state(
    *, student: nn.Module, distiller: Distiller, tx, context: InitContext, trains: str = "all", ema: bool = False
) -> TrainState:
    """`init_state` as shapes, without computing anything; initial variables may be shapes too."""
    network, _ = models.shapes(student, context.view_shapes.image.shape[1:])

    def make(network: Variables, key: Array, initial_vars: dict) -> TrainState:
        return _state(network, key, distiller, tx, context._replace(initial_vars=initial_vars), trains, ema)

    return jax.eval_shape(make, network, jax.eval_shape(jax.random.key, 0), dict(context.initial_vars))


def _state(network: Variables, key: Array, distiller: Distiller, tx, context: InitContext, trains: str, ema: bool):
    """The state of a network that is there already."""
    vars = with_initial_vars(distiller.init(fold(key, "method"), context), context.initial_vars)
    params = {"student": network.params, "method": vars.params}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats={"student": network.stats, "method": vars.stats},
        opt=tx.init(trained(params, trains)),
        policy=vars.policy,
        policy_opt=policy_adam(distiller.search).init(vars.policy) if distiller.search else {},
        ema=network._asdict() if ema else {},
    )


def trained(params: PyTree, trains: str) -> PyTree:
    """The part of the parameters that a step changes."""
    return params if trains == "all" else {"method": params["method"]}


def with_initial_vars(vars: Vars, initial_vars: Mapping[str, Vars]) -> Vars:
    """A chain's variables; members whose labels stand in `initial_vars` start with those.

    What is given may have dicts where a member has tuples, as a checkpoint has it: values are matched by the names of
    their places (keys, fields, positions), and the member keeps its own structure.

    Raises:
      InputError: a member of other places or shapes than the one that is given.
    """
    for label in initial_vars.keys() & (vars.params | vars.stats).keys():
        for members, values in ((vars.params, initial_vars[label].params), (vars.stats, initial_vars[label].stats)):
            replaced = _replaced(label, members.get(label, {}), values)
            members |= {label: replaced} if values else {}
    return vars


def _replaced(label: str, member: PyTree, values: PyTree) -> PyTree:
    """The structure of a member with the values of a tree of the same places."""
    by_place = {_place(path): value for path, value in jax.tree_util.tree_leaves_with_path(values)}
    shapes = {_place(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(member)}
    if shapes != {place: jnp.shape(value) for place, value in by_place.items()}:
        raise InputError(f"{label}: its variables and those that it is to start with have different shapes")
    return jax.tree_util.tree_map_with_path(lambda path, _: by_place[_place(path)], member)


def _place(path: tuple) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
