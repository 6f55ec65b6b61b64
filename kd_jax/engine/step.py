"""The pure functions of distillation: teacher outputs, train step, evaluation step."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.objective import accumulate_gradients, micro_step, objective
from kd_jax.engine.state import TrainState, trained
from kd_jax.engine.views import as_teachers, make_view
from kd_jax.models import base as models
from kd_jax.tasks import CLASSIFICATION, Task
from kd_jax.typing import (
    WHOLE,
    Array,
    Batch,
    Distiller,
    Match,
    Mean,
    Need,
    Outputs,
    ParamSharding,
    PyTree,
    RowUpdate,
    Variables,
    Vars,
)


def teacher_outputs(model: nn.Module, variables: Variables, image: Array) -> Outputs:
    """The teacher's outputs for a batch: in eval mode, detached here and only here.

    Args:
      model: the teacher.
      variables: its variables; an argument, never part of a training state, never donated.
      image: (B, H, W, C), normalised for the teacher.
    """
    outputs, _ = models.apply(model, variables, image, train=False)
    return jax.lax.stop_gradient(outputs)


def select_outputs(outputs: Outputs, needs: frozenset) -> Outputs:
    """The logits, and of the rest what a distiller needs of its teacher: what a compiled program does not return, it
    neither stores nor sends."""
    return outputs._replace(
        stages=outputs.stages if Need.TEACHER_STAGES in needs else (),
        preacts=outputs.preacts if Need.TEACHER_PREACTS in needs else None,
        pooled=outputs.pooled if Need.TEACHER_POOLED in needs else None,
        cam=outputs.cam if Need.TEACHER_CAM in needs else None,
        distill_logits=None,
    )


def sync_stats(stats: PyTree, before: PyTree, axis_name: str | None) -> PyTree:
    """The statistics that a step leaves: rows are written, what has changed is averaged over the devices."""

    def one(leaf, old):
        if isinstance(leaf, RowUpdate):
            index, rows = leaf.index, leaf.rows
            if axis_name:
                index, rows = jax.lax.all_gather((index, rows), axis_name, tiled=True)
            return leaf.table.at[index].set(rows.astype(leaf.table.dtype), unique_indices=True)
        averaged = axis_name and leaf is not old and jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jax.lax.pmean(leaf, axis_name) if averaged else leaf

    return jax.tree.map(one, stats, before, is_leaf=lambda x: isinstance(x, RowUpdate))


def train_step(
    state: TrainState,
    teacher_outputs: Outputs | tuple[Outputs, ...] | None,
    batch: Batch,
    key: Array,
    *,
    student: nn.Module,
    distiller: Distiller,
    tx: optax.GradientTransformation,
    trains: str = "all",
    task_terms: frozenset | None = None,
    ema: float | None = None,
    axis_name: str | None = None,
    accumulate: int = 1,
    scan: bool = False,
    sharding: ParamSharding | None = None,
    task: Task = CLASSIFICATION,
) -> tuple[TrainState, dict[str, Mean]]:
    """One step of the student and of the method's own parameters. Pure, jittable by anyone.

    Args:
      state: from `init_state` or the step before.
      teacher_outputs: of one teacher, of several, or None.
      batch: image (B, H, W, C) normalised for the student, label (B,); optional index (B,), mask (B,) and, for a
        method that needs extra views, views: NAME -> {"image": (B, H, W, C), "teachers": a tuple of Outputs}.
      key: the run's key for training, the same at every step: the step is folded in here.
      student: the network in training.
      distiller: what it is trained by.
      tx: optimiser over {"student": ..., "method": ...}.
      trains: "all"; or "method": the student stays as it is, in eval mode, and tx is over {"method": ...}.
      task_terms: None; or labels of the members whose terms make a gradient of their own, and tx takes a pair of
        gradients, of those terms and of all others (`optim.dot`).
      ema: decay of the student's average, 0 <= ema < 1, where the state keeps one.
      axis_name: under shard_map, the axis over whose devices gradients and statistics are averaged
        and metrics summed; the batch is then this device's part.
      accumulate: into how many parts of equal size the batch is cut, rows j, j + accumulate, ...; the gradient is the
        mean of theirs. B must divide by it.
      scan: whether that is a loop in the compiled program, which keeps the activations of one part only; over
        convolutions it is many times slower on CPU. Else the parts are written out.
      sharding: where the parameters are split over devices: how to gather them, and to split their gradients.
      task: what the network learns; its metrics are measured.

    Returns:
      (state, metrics): metrics hold loss, the task's and every term and log, as sum and count.

    Differs: with accumulate > 1 BatchNorm sees a part at a time, as published code that accumulates; its running
      statistics move once a part.
    """
    key, old = jax.random.fold_in(key, state.step), trained(state.params, trains)
    gather, split = sharding or WHOLE
    gathered = state._replace(**gather({"params": state.params, "policy": state.policy}))
    loss = partial(objective, student=student, distiller=distiller, trains=trains)
    how = {"task_terms": task_terms, "task": task, "is_part": accumulate > 1}
    step = partial(micro_step, loss, trained(gathered.params, trains), **how)
    teachers = as_teachers(teacher_outputs)
    if accumulate == 1:
        grads, stats, metrics = step(gathered, teachers, batch, key)
    else:
        grads, stats, metrics = accumulate_gradients(step, gathered, teachers, batch, key, accumulate, scan)
    if axis_name:
        grads = jax.lax.pmean(grads, axis_name)
        metrics = jax.lax.psum(metrics, axis_name)
    stats = sync_stats(stats, state.stats, axis_name)
    updates, opt = tx.update(split(grads), state.opt, old)
    params = {**state.params, **optax.apply_updates(old, updates)}
    average = state.ema
    if ema is not None:
        now = {"params": params["student"], "stats": stats["student"]}
        average = jax.tree.map(lambda a, b: ema * a + (1 - ema) * b, state.ema, now)
    changed = {"params": params, "stats": stats, "opt": opt, "ema": average}
    return state._replace(step=state.step + 1, **changed), metrics


def visualizations(
    state: TrainState,
    teacher_outputs: Outputs | tuple[Outputs, ...] | None,
    batch: Batch,
    *,
    model: nn.Module,
    distiller: Distiller,
) -> dict[str, Array]:
    """What `distiller.visualizations` draws of a batch, the network in eval mode. Arguments as for `train_step`."""
    outputs, _ = models.apply(model, state.student, batch["image"])
    view = make_view(batch["image"], outputs, as_teachers(teacher_outputs), batch, state.step)
    return distiller.visualizations(Vars(state.params["method"], state.stats["method"], state.policy), view)


def refine(
    state: TrainState,
    teacher_outputs: Outputs | tuple[Outputs, ...],
    batch: Batch,
    key: Array,
    *,
    model: nn.Module,
    refiners: Distiller,
) -> tuple[Match, Match]:
    """The pair of logits of a batch before and after some refiners, the network and they in eval mode. Arguments as for
    `train_step`."""
    outputs, _ = models.apply(model, state.student, batch["image"])
    view = make_view(batch["image"], outputs, as_teachers(teacher_outputs), batch, state.step)
    vars = Vars(state.params["method"], state.stats["method"], state.policy)
    return view.match, refiners.apply(vars, view, key, False)[0].match


def eval_step(
    variables: Variables, teacher: Array | None, batch: Batch, *, model: nn.Module, task: Task = CLASSIFICATION
) -> dict[str, Mean]:
    """Measure the network on one batch, in eval mode; examples with mask 0 do not count.

    Args:
      variables: of the network.
      teacher: the teachers' prediction (for classification logits (B, K)), or None where there is no teacher.
      batch: image (B, H, W, C) normalised, label (B,) if the task has any, mask (B,).
      model: the network.
      task: what the network learns.

    Returns:
      The task's test metrics: for classification loss (cross-entropy), top1, top5 and, with a teacher, agreement.
    """
    outputs, _ = models.apply(model, variables, batch["image"])
    values = task.test_metrics(task.predict((outputs,)), teacher, batch)
    return {name: metrics_lib.mean_of(value, batch["mask"]) for name, value in values.items()}
