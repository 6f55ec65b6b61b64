"""What the refiners of a saved phase make of logits: the distributions that its criteria compare."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from kd_jax import engine
from kd_jax.engine.loop import normalized
from kd_jax.losses.divergence import finite
from kd_jax.plan import PhasePlan
from kd_jax.plan.distiller import match_refiners
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.networks import seed_in
from kd_jax.train import saved_state
from kd_jax.train.compiled import Teachers
from kd_jax.train.inputs import resolve_teachers
from kd_jax.typing import Array, Batch, Match, Variables


class Targets(NamedTuple):
    """Of N images, (N, H, W, C) in [0, 1], with labels (N,), distributions (N, K) over the classes.

    teacher: the softmax of its logits, or of the mean of several teachers'. softened: at the temperature that the
    refiners set. target: of the refined logits at that temperature. student: the other side of the refined pair, at the
    temperature of that side. temperatures: (N, 2), of the teacher and of the student; 1 where no refiner sets any: a
    criterion then uses its own.
    """

    image: np.ndarray
    label: np.ndarray
    teacher: np.ndarray
    softened: np.ndarray
    target: np.ndarray
    student: np.ndarray
    temperatures: np.ndarray


def targets_of(
    plan: PhasePlan, folder: epath.Path, teachers: tuple[Variables | None, ...], batch: Batch, seed: int | None
) -> Targets | None:
    """The distributions of a test batch after the last step; None where nothing was trained with refiners of logits.

    Args:
      plan: of the phase. folder: where it is saved.
      teachers: their variables, () where they have no outputs for test images; None for the student's average.
      batch: of test images; those with mask 0 are left out of what is returned.
      seed: which of several that were trained together; None for the first.
    """
    refiners = match_refiners(plan.phase, plan.steps_per_epoch)
    if refiners is None or plan.weights or not teachers:
        return None
    layout = plan.layout
    reader = Checkpoints(folder, read_only=True)
    items, meta = reader.read("network", "training")
    reader.close()
    parts = saved_state.of_seed(items, plan.seeds, seed_in(meta, seed))
    state, _ = saved_state.join(layout.like(plan.abstract), (), parts, meta["step"])
    teach = Teachers(layout, tuple(teacher.network for teacher in plan.teachers), refiners.needs)
    outputs = teach(resolve_teachers(teachers, state), batch, "test")
    apply = layout.jit(partial(_distributions, plan.network, refiners), ins="sbbr", outs="b")
    parts = layout.whole(apply(state, outputs, batch, jax.random.key(0)))
    there = np.asarray(batch["mask"]) > 0
    return Targets(*(np.asarray(part)[there] for part in (batch["image"], batch["label"], *parts)))


def _distributions(network, refiners, state, outputs, batch: Batch, key: Array) -> tuple[Array, ...]:
    """The last five fields of Targets."""
    parts = {"model": network.model, "refiners": refiners}
    before, after = engine.refine(state, outputs, normalized(batch, network), key, **parts)
    student, teacher = _temperatures(after)
    pairs = ((before.teacher, 1.0), (before.teacher, teacher), (after.teacher, teacher), (after.student, student))
    columns = [jax.numpy.broadcast_to(t, (len(after.teacher), 1)) for t in (teacher, student)]
    return *map(_softmax, *zip(*pairs, strict=True)), jax.numpy.concatenate(columns, -1)


def _temperatures(match: Match) -> tuple[Array | float, Array | float]:
    """Of the student's side, and of the teacher's."""
    student = 1.0 if match.temperature is None else match.temperature
    return student, student if match.teacher_temperature is None else match.teacher_temperature


def _softmax(logits: Array, temperature: Array | float) -> Array:
    return jax.nn.softmax(*finite(logits, temperature=temperature))
