"""The three pure functions of distillation: teacher outputs, train step, evaluation step."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kd_jax import losses
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState, as_teachers, make_view
from kd_jax.methods.base import fold
from kd_jax.models import base as models
from kd_jax.typing import Array, Batch, Distiller, Mean, Outputs, PyTree, Terms, Variables, Vars


def teacher_outputs(model: nn.Module, variables: Variables, image: Array) -> Outputs:
    """What the teacher says about a batch: in eval mode, detached here and only here.

    Args:
      model: the teacher.
      variables: its variables; an argument, never part of a training state, never donated.
      image: (B, H, W, C), normalised for the teacher.
    """
    outputs, _ = models.apply(model, variables, image, train=False)
    return jax.lax.stop_gradient(outputs)


def only(outputs: Outputs, needs: frozenset) -> Outputs:
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
):
    """The loss that a step descends, as a function of the parameters and the policy.

    Returns:
      loss (), and (student's logits, terms, logs, statistics moved).
    """
    net = Variables(params["student"], state.stats["student"])
    outputs, stats = models.apply(student, net, batch["image"], train=True)
    view = make_view(batch["image"], outputs, teachers, batch, state.step)
    own = Vars(params["method"], state.stats["method"], policy)
    _, terms, logs, method_stats = distiller.apply(own, view, fold(key, "method"), True)
    loss = total(terms, mask_of(batch))
    return loss, (outputs.logits, terms, logs, {"student": stats, "method": method_stats})


def mask_of(batch: Batch) -> Array:
    """(B,): which examples count; all of them where the batch does not say."""
    return batch.get("mask", jnp.ones(batch["label"].shape, jnp.float32))


def train_step(
    state: TrainState,
    teacher_outputs: Outputs | tuple[Outputs, ...] | None,
    batch: Batch,
    key: Array,
    *,
    student: nn.Module,
    distiller: Distiller,
    tx: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One step of the student and of the method's own parameters. Pure, jittable by anyone.

    Args:
      state: from `init_state` or the step before.
      teacher_outputs: of one teacher, of several, or None.
      batch: image (B, H, W, C) normalised for the student, label (B,); optional index (B,), mask (B,).
      key: the run's root key, the same at every step: the step is folded in here.
      student: the network in training.
      distiller: what it is trained by.
      tx: optimiser over {"student": ..., "method": ...}.
      axis_name: under shard_map, the axis over whose devices gradients and statistics are averaged
        and metrics summed; the batch is then this device's part.

    Returns:
      (state, metrics): metrics hold loss, top1 and every term and log, as sum and count.
    """
    mask, key = mask_of(batch), jax.random.fold_in(key, state.step)
    given = (state.policy, state, as_teachers(teacher_outputs), batch, key)
    descend = jax.value_and_grad(partial(objective, student=student, distiller=distiller), has_aux=True)
    (loss, (logits, terms, logs, stats)), grads = descend(state.params, *given)
    if axis_name:
        grads, stats = jax.lax.pmean((grads, stats), axis_name)
    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    measured = {
        "loss": metrics_lib.mean_of(loss, mask),
        "top1": metrics_lib.mean_of(metrics_lib.top_k(logits, batch["label"], 1), mask),
        **metrics_lib.named(terms, logs, mask),
    }
    if axis_name:
        measured = jax.lax.psum(measured, axis_name)
    return state._replace(step=state.step + 1, params=params, stats=stats, opt=opt), measured


def maps(
    state: TrainState,
    teacher_outputs: Outputs | tuple[Outputs, ...] | None,
    batch: Batch,
    *,
    model: nn.Module,
    distiller: Distiller,
) -> dict[str, Array]:
    """What `distiller.maps` draws for a batch, the network in eval mode. Arguments as for `train_step`."""
    outputs, _ = models.apply(model, state.student, batch["image"])
    view = make_view(batch["image"], outputs, as_teachers(teacher_outputs), batch, state.step)
    return distiller.maps(Vars(state.params["method"], state.stats["method"], state.policy), view)


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
