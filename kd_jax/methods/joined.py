"""Two networks joined by bridges: the first stages of one, a bridge, the later layers of the other."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import models
from kd_jax.layers.bridge import Bridge
from kd_jax.models.outside import FunctionNetwork
from kd_jax.typing import Array, InitContext, InputError, Outputs, PyTree, Variables, View


class Crossing(NamedTuple):
    """Where one network goes on as the other: behind this stage of both, to the teacher's later layers or to the
    student's."""

    stage: int
    to_teacher: bool

    @property
    def name(self) -> str:
        """Name of its bridge among variables."""
        return f"to_{'teacher' if self.to_teacher else 'student'}{self.stage}"


@partial(jax.tree_util.register_dataclass, data_fields=["later"], meta_fields=["teacher", "leaky"])
@dataclass(frozen=True)
class Joined:
    """What a step has to know of the two beside a view; kept in a method's statistics, where nothing changes it.

    later: variables of the teacher's layers behind stage 1. teacher: its module. leaky: whether a bridge to the
    student, and one to the teacher, ends in a LeakyReLU: where stages come out of a ReLU.
    """

    later: Variables
    teacher: Any
    leaky: tuple[bool, bool]

    def bridge(self, view: View, crossing: Crossing) -> tuple[Bridge, Array]:
        """The bridge of a crossing, and the map (B, h, w, c) that it takes."""
        student, teacher = view.student.stages[crossing.stage], view.teachers[0].stages[crossing.stage]
        x, end = (student, teacher) if crossing.to_teacher else (teacher, student)
        return Bridge(end.shape[1:], self.leaky[crossing.to_teacher]), x

    def behind(self, view: View, crossing: Crossing, x: Array) -> Outputs:
        """What the later layers make of x (B, H, W, C): the teacher's in eval mode, or the student's, whose running
        statistics do not move."""
        if crossing.to_teacher:
            return models.apply(self.teacher, self.later, x, after=crossing.stage)[0]
        return view.apply_student(view.student_stats, x, after=crossing.stage)[0]


def join(name: str, context: InitContext) -> Joined:
    """The first teacher and the student; the teacher's variables are zeros while they are shapes only.

    Raises:
      InputError: no teacher's variables, or a teacher that cannot begin at a stage.
    """
    if not context.teachers:
        raise InputError(f"{name}: context.teachers is empty; paths run through the teacher's later layers")
    teacher, variables = context.teachers[0]
    if isinstance(teacher, FunctionNetwork):
        raise InputError(f"{name}: a python: teacher cannot begin at a stage; accepted: a network of kd_jax.models")
    entry = context.view_shapes.teachers[0].stages[1]
    x = jax.ShapeDtypeStruct((1, *entry.shape[1:]), jnp.float32)
    later = jax.eval_shape(partial(models.init, teacher, after=1), jax.eval_shape(jax.random.key, 0), x)
    leaky = tuple(getattr(network, "rectified", True) for network in (context.student, teacher))
    return Joined(Variables(*map(_part, variables, later)), teacher, leaky)


def drawn(key: Array, functions: list[Callable[[], PyTree]], count: int) -> PyTree:
    """The sum of what `count` different ones of some functions return, which a program chooses when it runs.

    Args:
      key: of the choice; all choices are equally likely.
      functions: all return arrays of the same shapes.
      count: from 1 to their number.
    """
    if count == len(functions):
        chosen = [function() for function in functions]
    else:
        order = jax.random.permutation(key, len(functions))
        chosen = [jax.lax.switch(order[i], functions) for i in range(count)]
    return jax.tree.map(lambda *values: sum(values), *chosen)


def _part(tree: PyTree, like: PyTree) -> PyTree:
    """Of a tree the leaves at the places that `like` has."""
    if isinstance(like, dict):
        return {name: _part(tree[name], inner) for name, inner in like.items()}
    return jnp.zeros(tree.shape, tree.dtype) if isinstance(tree, jax.ShapeDtypeStruct) else tree
