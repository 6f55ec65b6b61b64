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
from kd_jax.engine import seeds
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
    lives, as `Layout.jit` takes it. at_once: whether both take a tuple of every seed's in place of the loop state and
    of the key, and return one."""

    train: jax.stages.Traced
    search: jax.stages.Traced | None
    metrics: metrics_lib.Metrics
    places: LoopState
    at_once: bool = False

    def train_again(self, loop: LoopState, teachers: tuple[Outputs, ...], batch: Batch, key: Array) -> LoopState:
        """What `train` has traced, for another compiled program to call: it is not traced a second time."""
        step = jaxpr_as_fun(self.train.jaxpr)
        return jax.tree.unflatten(jax.tree.structure(loop), step(*jax.tree.leaves((loop, teachers, batch, key))))


def step_inputs(context: InitContext, needs: frozenset, task: Task) -> tuple[tuple[Outputs, ...], Batch]:
    """What a training step reads, as shapes: the teachers' outputs, less what no member needs, and the batch."""
    view = context.view_shapes
    teachers = tuple(select_outputs(t, needs) for t in view.teachers) if reads_teachers(needs) else ()
    batch = task.batch(view.image.shape[0], view.image.shape[1:])
    batch |= {} if view.soft_labels is None else {"soft_label": view.soft_labels}
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
    count: int = 1,
) -> TracedSteps:
    """Trace the steps of a phase.

    Args:
      phase, layout, network, context: of the phase.
      state: as shapes.
      task: what the network learns.
      parts: keywords that `train_step` and `policy_step` share: student, distiller, tx, task_terms.
      searches: whether a policy is searched.
      skip: how many updates may be left out because they are not finite.
      count: of seeds.
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
    count = count if seeds.vmaps() else 1
    places = LoopState(states, "r", "r")
    trace = partial(_trace, layout, loop, places, key, count)
    inputs = _of_seeds(phase, count, teachers, batch) if count > 1 else (teachers, batch)
    training = trace(partial(loop_step, step=step, skip=skip), inputs)
    if not searches:
        return TracedSteps(training, None, metrics, places, count > 1)
    step = layout.jit_step(search, ins=(states, "b", "b", "r"), outs=(states, "r"))
    searching = trace(partial(loop_search_step, step=step), (inputs, inputs))
    return TracedSteps(training, searching, metrics, places, count > 1)


def _trace(layout: Layout, loop: LoopState, places: LoopState, key, count: int, step, inputs: tuple):
    """Trace a loop step of one seed or, vmapped, of several. places: of the loop state on the devices."""

    program = step
    if count > 1:
        loop, places, key = (loop,) * count, (places,) * count, (key,) * count

        def program(loops, first, second, keys):
            return seeds.at_once(step, loops, (first, second), keys)

    return layout.jit(program, ins=(places, "b", "b", "r"), outs=(places,), donate=(0,)).trace(loop, *inputs, key)


def _of_seeds(phase: config.Phase, count: int, teachers: tuple[Outputs, ...], batch: Batch) -> tuple:
    """Inputs as several seeds read them: outputs of a teacher that moves are those of a teacher of each."""

    def of_each(outputs: tuple[Outputs, ...]) -> tuple:
        pairs = zip(outputs, phase.teacher, strict=False)  # none where no member reads them
        return tuple(seeds.PerSeed((one,) * count) if origin == "ema" else one for one, origin in pairs)

    views = {name: {**view, "teachers": of_each(view["teachers"])} for name, view in batch.get("views", {}).items()}
    return of_each(teachers), {**batch, **({"views": views} if views else {})}
