"""The loss that a step descends, and its gradient: of a whole batch, or of a batch in parts."""

from fnmatch import fnmatchcase
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState
from kd_jax.engine.views import student_runner, student_views
from kd_jax.methods.base import fold
from kd_jax.tasks import CLASSIFICATION, Task
from kd_jax.typing import Array, Batch, Distiller, InputError, Outputs, PyTree, Terms, Vars


def total(terms: Terms, mask: Array) -> Array:
    """The loss: the sum of the terms, each (B,) term averaged over the examples that count."""
    means = [metrics_lib.mean_of(value, mask) for value in terms.values()]
    return sum((m.total / m.count for m in means), jnp.zeros(()))


def mask_of(batch: Batch) -> Array:
    """(B,): which examples count; all of them where the batch does not say."""
    return batch.get("mask", jnp.ones(batch["image"].shape[:1], jnp.float32))


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
      loss (), and (student's Outputs, terms, logs, new statistics).
    """
    params = {"student": state.params["student"], **params}
    run = student_runner(student, params["student"], fold(key, "student"), train=trains == "all")
    view = student_views(run, state.stats["student"], teachers, batch, state.step, distiller.needs)
    vars = Vars(params["method"], state.stats["method"], policy)
    after, terms, logs, method_stats = distiller.apply(vars, view, fold(key, "method"), True)
    stats = {"student": after.student_stats, "method": method_stats}
    return total(terms, mask_of(batch)), (view.student, terms, logs, stats)


def split_losses(loss, params: PyTree, *args, task_terms: frozenset, mask: Array):
    """Two sums of an objective's terms, (loss (), loss ()): of those in `task_terms`, and of all others. And what else
    it returns. Arguments as for `gradients`."""
    _, aux = loss(params, *args)
    parts = ({}, {})
    for name, term in aux[1].items():
        spelled = (name, name.partition("/")[0])
        parts[not any(fnmatchcase(x, pattern) for x in spelled for pattern in task_terms)][name] = term
    if task_terms and not all(parts):
        apart = " or ".join(sorted(task_terms))
        raise InputError(f"two gradients: needs a term {apart} and another one, there are {', '.join(aux[1])}")
    return tuple(total(part, mask) for part in parts), aux


def gradients(loss, params: PyTree, *args, task_terms: frozenset | None, mask: Array):
    """Value of an objective, what else it returns, and its gradient; with `task_terms`, a pair of gradients: of those
    terms, and of all others.

    Args:
      loss: `objective` with its keyword arguments.
      params: what it is differentiated by.
      *args: its other arguments.
      task_terms: labels of members or names of terms, or patterns of these; or None.
      mask: (B,), which examples count.
    """
    if task_terms is None:
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, *args)
        return value, aux, grads
    apart = partial(split_losses, loss, task_terms=task_terms, mask=mask)
    values, back, aux = jax.vjp(lambda params: apart(params, *args), params, has_aux=True)
    one, zero = (jnp.full_like(values[0], x) for x in (1, 0))
    return sum(values), aux, (back((one, zero))[0], back((zero, one))[0])


class WholeBatchTermError(InputError):
    """A batch is to be cut, but a term is one number for the whole batch."""


def micro_step(
    loss, params: PyTree, state: TrainState, teachers, batch: Batch, key: Array, *, task_terms: frozenset | None,
    task: Task = CLASSIFICATION, is_part: bool = False,
):  # fmt: skip
    """Gradients, new statistics and metrics of a batch or, `is_part`, of a part of one. Arguments as for `gradients`.

    Raises:
      WholeBatchTermError: a term of shape () of a part.
    """
    mask = mask_of(batch)
    args = (state.policy, state, teachers, batch, key)
    value, (outputs, terms, logs, stats), grads = gradients(loss, params, *args, task_terms=task_terms, mask=mask)
    for name, term in terms.items() if is_part else ():
        if not term.shape:
            raise WholeBatchTermError(f"{name} is one number for the whole batch")
    values = {"loss": value, **task.train_metrics(task.predict((outputs,)), batch)}
    metrics = {name: metrics_lib.mean_of(value, mask) for name, value in values.items()}
    return grads, stats, {**metrics, **metrics_lib.named(terms, logs, mask)}


def accumulate_gradients(step, state: TrainState, teachers, batch: Batch, key: Array, count: int, scan: bool):
    """Take `step` on every part of a batch, one after the other: mean gradient, statistics passed on, metrics summed.

    A device keeps its rows: part j has rows j, j + count, ... of those it holds.
    """
    parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), (teachers, batch))
    unchanged = []

    def body(carry, inputs):
        (stats, sums), (j, part) = carry, inputs
        grads, new_stats, metrics = step(state._replace(stats=stats), *part, jax.random.fold_in(key, j))
        unchanged.append(jax.tree.map(lambda a, b: a is b, new_stats, stats))
        return (new_stats, jax.tree.map(jnp.add, sums, (grads, metrics))), None

    first = jax.tree.map(lambda x: x[0], parts)
    grads, _, metrics = jax.eval_shape(step, state, *first, key)
    carry = state.stats, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
    if scan:
        carry, _ = jax.lax.scan(body, carry, (jnp.arange(count), parts))
    for j in range(0 if scan else count):
        carry, _ = body(carry, (j, jax.tree.map(lambda x, j=j: x[j], parts)))
    stats, (grads, metrics) = carry
    # `sync_stats` averages what has changed: a scan returns all as if it had
    stats = jax.tree.map(lambda same, now, before: before if same else now, unchanged[-1], stats, state.stats)
    return jax.tree.map(lambda g: g / count, grads), stats, metrics
