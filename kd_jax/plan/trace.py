"""The steps of a phase, traced once, on exactly the inputs that the run will feed.

Whatever a configuration gets wrong is found here, before the first phase trains; running the phase lowers and
compiles what was traced.
"""

from functools import partial
from typing import NamedTuple

import jax
from jax.extend.core import jaxpr_as_fun

from kd_jax import config, engine
from kd_jax.distributed.mesh import Layout
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.loop import LoopState, loop_search_step, loop_step, normalized
from kd_jax.engine.objective import WholeBatchTermError
from kd_jax.engine.state import TrainState
from kd_jax.engine.step import select_outputs
from kd_jax.models.network import Network
from kd_jax.tasks import Task
from kd_jax.typing import Array, Batch, InitContext, InputError, Outputs, extra_views_of, reads_teachers


class TracedSteps(NamedTuple):
    """train: (loop state, teachers, batch, key) -> loop state. search: (loop state, inner, outer, key) -> loop state,
    or None where no policy is searched. metrics: those of a training step, as shapes. places: where a loop state
    lives, as `Layout.jit` takes it."""

    train: jax.stages.Traced
    search: jax.stages.Traced | None
    metrics: metrics_lib.Metrics
    places: LoopState

    def train_again(self, loop: LoopState, teachers: tuple[Outputs, ...], batch: Batch, key: Array) -> LoopState:
        """What `train` has traced, for another compiled program to call: it is not traced a second time."""
        step = jaxpr_as_fun(self.train.jaxpr)
        return jax.tree.unflatten(jax.tree.structure(loop), step(*jax.tree.leaves((loop, teachers, batch, key))))


def step_inputs(context: InitContext, needs: frozenset, task: Task) -> tuple[tuple[Outputs, ...], Batch]:
    """What a training step reads, as shapes: the teachers' outputs, less what no member needs, and the batch."""
    view = context.view_shapes
    teachers = tuple(select_outputs(t, needs) for t in view.teachers) if reads_teachers(needs) else ()
    batch = task.batch(view.image.shape[0], view.image.shape[1:])
    views = {name: {"image": view.image, "teachers": teachers} for name in extra_views_of(needs)}
    return teachers, batch | ({"views": views} if views else {})


def trace_steps(
    phase: config.Phase,
    layout: Layout,
    network: Network,
    context: InitContext,
    state: TrainState,
    *,
    task: Task,
    parts: dict,
    searches: bool,
    skip: int,
) -> TracedSteps:
    """Trace the steps of a phase.

    Args:
      phase, layout, network, context: of the phase.
      state: as shapes.
      task: what the network learns.
      parts: keywords that `train_step` and `policy_step` share: student, distiller, tx, task_terms.
      searches: whether a policy is searched.
      skip: how many updates may be left out because they are not finite.
    """
    parts = {**parts, "axis_name": layout.axis_name, "sharding": layout.param_sharding}
    more = {"trains": phase.trains, "ema": phase.ema, "accumulate": phase.accumulate, "task": task}
    more["scan"] = jax.default_backend() != "cpu"
    train_step, policy_step = partial(engine.train_step, **parts, **more), partial(engine.policy_step, **parts)

    def train(state, teachers, batch, key):
        return train_step(state, teachers, normalized(batch, network), key)

    def search(state, inner, outer, key):
        inner, outer = ((teachers, normalized(batch, network)) for teachers, batch in (inner, outer))
        return policy_step(state, inner, outer, key)

    teachers, batch = step_inputs(context, parts["distiller"].needs, task)
    key, states = jax.eval_shape(jax.random.key, 0), layout.split(state)
    step = layout.jit_step(train, ins=(states, "b", "b", "r"), outs=(states, "r"))
    try:
        _, metrics = step.trace(state, teachers, batch, key).out_info
    except WholeBatchTermError as e:
        raise InputError(f"config.{phase.name}.accumulate: {phase.accumulate}, but {e}; accepted: 1") from e
    metrics = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metrics)
    loop = LoopState(state, metrics, jax.eval_shape(metrics_lib.healthy, metrics))
    places = LoopState(states, "r", "r")
    how = {"ins": (places, "b", "b", "r"), "outs": (places,), "donate": (0,)}
    trace = layout.jit(partial(loop_step, step=step, skip=skip), **how).trace(loop, teachers, batch, key)
    traced = TracedSteps(trace, None, metrics, places)
    if not searches:
        return traced
    step = layout.jit_step(search, ins=(states, "b", "b", "r"), outs=(states, "r"))
    searching = layout.jit(partial(loop_search_step, step=step), **how)
    return traced._replace(search=searching.trace(loop, (teachers, batch), (teachers, batch), key))
