"""The three pure functions of distillation: teacher outputs, train step, evaluation step."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kd_jax import losses
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState, as_teachers, make_view, trained
from kd_jax.methods.base import fold
from kd_jax.models import base as models
from kd_jax.typing import (
    WHOLE,
    Array,
    Batch,
    Distiller,
    Mean,
    Outputs,
    ParamSharding,
    PyTree,
    RowUpdate,
    Terms,
    Variables,
    Vars,
    View,
)


def teacher_outputs(model: nn.Module, variables: Variables, image: Array) -> Outputs:
    """What the teacher says about a batch: in eval mode, detached here and only here.

    Args:
      model: the teacher.
      variables: its variables; an argument, never part of a training state, never donated.
      image: (B, H, W, C), normalised for the teacher.
    """
    outputs, _ = models.apply(model, variables, image, train=False)
    return jax.lax.stop_gradient(outputs)


def select_outputs(outputs: Outputs, needs: frozenset) -> Outputs:
    """The logits, and of the rest what a distiller needs of its teacher: what a compiled program
    does not return, it neither stores nor sends."""
    return outputs._replace(
        stages=outputs.stages if "teacher.stages" in needs else (),
        preacts=outputs.preacts if "teacher.preacts" in needs else None,
        pooled=outputs.pooled if "teacher.pooled" in needs else None,
        cam=outputs.cam if "teacher.cam" in needs else None,
    )


def total(terms: Terms, mask: Array) -> Array:
    """The loss: the sum of the terms, each (B,) term averaged over the examples that count."""
    means = [metrics_lib.mean_of(value, mask) for value in terms.values()]
    return sum((m.total / m.count for m in means), jnp.zeros(()))


def objective(
    params: PyTree,
    policy: PyTree,
    state: TrainState,
    teachers: tuple[Outputs, ...],
    batch: Batch,
    key: Array,
    *,
    student: nn.Module,
    distiller: Distiller,
    trains: str = "all",
):
    """The loss that a step descends, as a function of the parameters and the policy.

    Args:
      params: those that the loss is a function of; those of a student that does not train are read from the state.
      policy, state, teachers, batch, key: as for `train_step`.
      student, distiller, trains: likewise.

    Returns:
      loss (), and (student's logits, terms, logs, statistics moved).
    """
    params = {"student": state.params["student"], **params}
    see = partial(models.apply, student, train=trains == "all")
    outputs, stats = see(Variables(params["student"], state.stats["student"]), batch["image"])
    others = {}
    for name, seen in batch.get("views", {}).items():
        again, stats = see(Variables(params["student"], stats), seen["image"])
        others[name] = make_view(seen["image"], again, seen["teachers"], batch, state.step)
    view = make_view(batch["image"], outputs, teachers, batch, state.step, needs=distiller.needs, extra_views=others)
    own = Vars(params["method"], state.stats["method"], policy)
    _, terms, logs, method_stats = distiller.apply(own, view, fold(key, "method"), True)
    loss = total(terms, mask_of(batch))
    return loss, (outputs.logits, terms, logs, {"student": stats, "method": method_stats})


def split_losses(loss, params: PyTree, *given, task: frozenset, mask: Array):
    """An objective's terms summed apart, (loss (), loss ()): those of the members in `task`, and all others. And what
    else it returns. Arguments as for `gradients`."""
    _, aux = loss(params, *given)
    parts = ({}, {})
    for name, term in aux[1].items():
        parts[name.partition("/")[0] not in task][name] = term
    return tuple(total(part, mask) for part in parts), aux


def gradients(loss, params: PyTree, *given, task: frozenset | None, mask: Array):
    """Value, what else it returns, and the gradient of an objective; with `task`, a pair of gradients: of those terms,
    and of all others.

    Args:
      loss: `objective` with its keyword arguments.
      params: what it is differentiated by.
      *given: its other arguments.
      task: labels of members, or None.
      mask: (B,), which examples count.
    """
    if task is None:
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, *given)
        return value, aux, grads
    apart = partial(split_losses, loss, task=task, mask=mask)
    values, back, aux = jax.vjp(lambda params: apart(params, *given), params, has_aux=True)
    one, zero = (jnp.full_like(values[0], x) for x in (1, 0))
    return sum(values), aux, (back((one, zero))[0], back((zero, one))[0])


def inputs(view: View, needs: frozenset) -> tuple[tuple[Outputs, ...], Batch]:
    """Shapes of what a training step reads, teachers' outputs and batch, from those of its view (`InitContext`)."""
    mask = jax.ShapeDtypeStruct(view.labels.shape, jnp.float32)
    batch = {"image": view.image, "label": view.labels, "index": view.labels, "mask": mask}
    taught = tuple(select_outputs(t, needs) for t in view.teachers) if reads_teachers(needs) else ()
    if "strong" in needs:
        batch["views"] = {"strong": {"image": view.image, "teachers": taught}}
    return taught, batch


def reads_teachers(needs: frozenset) -> bool:
    """Whether a step reads the teachers' outputs (agreement alone needs them in tests only)."""
    return any(need == "match" or need.startswith(("teacher", "alone.")) for need in needs)


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


def mask_of(batch: Batch) -> Array:
    """(B,): which examples count; all of them where the batch does not say."""
    return batch.get("mask", jnp.ones(batch["label"].shape, jnp.float32))


def micro_step(loss, params: PyTree, state: TrainState, taught, batch: Batch, key: Array, *, task: frozenset | None):
    """Gradients, statistics moved and metrics of a batch or a part of one. Arguments as for `gradients`."""
    mask = mask_of(batch)
    given = (state.policy, state, taught, batch, key)
    value, (logits, terms, logs, stats), grads = gradients(loss, params, *given, task=task, mask=mask)
    measured = {
        "loss": metrics_lib.mean_of(value, mask),
        "top1": metrics_lib.mean_of(metrics_lib.top_k(logits, batch["label"], 1), mask),
        **metrics_lib.named(terms, logs, mask),
    }
    return grads, stats, measured


def accumulate_gradients(one, state: TrainState, taught, batch: Batch, key: Array, count: int, scan: bool):
    """`one` of every part of a batch, one after the other: mean gradient, statistics passed on, metrics summed.

    A device keeps its own rows: part j has rows j, j + count, ... of what it holds.
    """
    parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), (taught, batch))
    kept = []

    def body(carry, given):
        (stats, summed), (j, part) = carry, given
        grads, moved, measured = one(state._replace(stats=stats), *part, jax.random.fold_in(key, j))
        kept.append(jax.tree.map(lambda a, b: a is b, moved, stats))
        return (moved, jax.tree.map(jnp.add, summed, (grads, measured))), None

    first = jax.tree.map(lambda x: x[0], parts)
    grads, _, measured = jax.eval_shape(one, state, *first, key)
    carry = state.stats, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, measured))
    if scan:
        carry, _ = jax.lax.scan(body, carry, (jnp.arange(count), parts))
    for j in range(0 if scan else count):
        carry, _ = body(carry, (j, jax.tree.map(lambda x, j=j: x[j], parts)))
    stats, (grads, measured) = carry
    # `sync_stats` averages what has changed: a scan returns all as if it had
    stats = jax.tree.map(lambda same, now, before: before if same else now, kept[-1], stats, state.stats)
    return jax.tree.map(lambda g: g / count, grads), stats, measured


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
    task: frozenset | None = None,
    ema: float | None = None,
    axis_name: str | None = None,
    accumulate: int = 1,
    scan: bool = False,
    spread: ParamSharding | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One step of the student and of the method's own parameters. Pure, jittable by anyone.

    Args:
      state: from `init_state` or the step before.
      teacher_outputs: of one teacher, of several, or None.
      batch: image (B, H, W, C) normalised for the student, label (B,); optional index (B,), mask (B,) and, for a
        method that needs "strong", views: {"strong": {"image": (B, H, W, C), "teachers": a tuple of Outputs}}.
      key: the run's root key, the same at every step: the step is folded in here.
      student: the network in training.
      distiller: what it is trained by.
      tx: optimiser over {"student": ..., "method": ...}.
      trains: "all"; or "method": the student stays as it is, in eval mode, and tx is over {"method": ...}.
      task: None; or labels of the members whose terms make a gradient of their own, and tx takes a pair of
        gradients, of those terms and of all others (`optim.dot`).
      ema: decay of the student's average, 0 <= ema < 1, where the state keeps one.
      axis_name: under shard_map, the axis over whose devices gradients and statistics are averaged
        and metrics summed; the batch is then this device's part.
      accumulate: into how many parts of equal size the batch is cut, rows j, j + accumulate, ...; the gradient is the
        mean of theirs. B must divide by it.
      scan: whether that is a loop in the compiled program, which keeps the activations of one part only; over
        convolutions it is many times slower on CPU. Else the parts are written out.
      spread: where the parameters are split over devices: how to gather them, and to split their gradients.

    Returns:
      (state, metrics): metrics hold loss, top1 and every term and log, as sum and count.

    Differs: with accumulate > 1 BatchNorm sees a part at a time, as published code that accumulates; its running
      statistics move once a part.
    """
    key, old = jax.random.fold_in(key, state.step), trained(state.params, trains)
    gather, split = spread or WHOLE
    seen = state._replace(**gather({"params": state.params, "policy": state.policy}))
    parts = {"student": student, "distiller": distiller, "trains": trains}
    one = partial(micro_step, partial(objective, **parts), trained(seen.params, trains), task=task)
    taught = as_teachers(teacher_outputs)
    if accumulate == 1:
        grads, stats, measured = one(seen, taught, batch, key)
    else:
        grads, stats, measured = accumulate_gradients(one, seen, taught, batch, key, accumulate, scan)
    if axis_name:
        grads = jax.lax.pmean(grads, axis_name)
    stats = sync_stats(stats, state.stats, axis_name)
    updates, opt = tx.update(split(grads), state.opt, old)
    params = {**state.params, **optax.apply_updates(old, updates)}
    average = {}
    if ema is not None:
        now = {"params": params["student"], "stats": stats["student"]}
        average = jax.tree.map(lambda a, b: ema * a + (1 - ema) * b, state.ema, now)
    if axis_name:
        measured = jax.lax.psum(measured, axis_name)
    moved = {"params": params, "stats": stats, "opt": opt, "ema": average}
    return state._replace(step=state.step + 1, **moved), measured


def visualizations(
    state: TrainState,
    teacher_outputs: Outputs | tuple[Outputs, ...] | None,
    batch: Batch,
    *,
    model: nn.Module,
    distiller: Distiller,
) -> dict[str, Array]:
    """What `distiller.visualizations` draws for a batch, the network in eval mode. Arguments as for `train_step`."""
    outputs, _ = models.apply(model, state.student, batch["image"])
    view = make_view(batch["image"], outputs, as_teachers(teacher_outputs), batch, state.step)
    return distiller.visualizations(Vars(state.params["method"], state.stats["method"], state.policy), view)


def eval_step(variables: Variables, teacher_logits: Array | None, batch: Batch, *, model: nn.Module) -> dict[str, Mean]:
    """Measure the network on one batch, in eval mode; examples with mask 0 do not count.

    Args:
      variables: of the network.
      teacher_logits: (B, K), or None where there is no teacher.
      batch: image (B, H, W, C) normalised, label (B,), mask (B,).
      model: the network.

    Returns:
      loss (task cross-entropy), top1, top5 and, with a teacher, agreement.
    """
    logits = models.apply(model, variables, batch["image"])[0].logits
    values = {
        "loss": losses.cross_entropy(student=logits, labels=batch["label"]),
        "top1": metrics_lib.top_k(logits, batch["label"], 1),
        "top5": metrics_lib.top_k(logits, batch["label"], 5),
    }
    if teacher_logits is not None:
        values["agreement"] = metrics_lib.agreement(logits, teacher_logits)
    return {name: metrics_lib.mean_of(value, batch["mask"]) for name, value in values.items()}
