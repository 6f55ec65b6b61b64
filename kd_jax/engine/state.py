"""TrainState, and its first value."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kd_jax.engine.optim import policy_adam
from kd_jax.methods.base import fold
from kd_jax.models import base as models
from kd_jax.typing import Array, Distiller, Facts, Match, Outputs, PyTree, Variables, View


class TrainState(NamedTuple):
    """All that training changes, and nothing else: no key, no data position, no teacher.

    step: () int32, steps done. params, stats: {"student": ..., "method": ...}. opt: the state of
    one optax object over params. policy, policy_opt: what an outer objective trains.
    """

    step: Array
    params: PyTree
    stats: PyTree
    opt: PyTree
    policy: PyTree
    policy_opt: PyTree

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


def make_view(image, student: Outputs, teachers: tuple[Outputs, ...], batch, step) -> View:
    """The view before any refiner. Several teachers are matched by their averaged logits."""
    match = None
    if teachers:
        match = Match(student.logits, mean_logits(teachers))
    return View(image, student, teachers, match, batch["label"], batch.get("index"), step)


def make_facts(
    student: nn.Module, teachers: tuple[nn.Module, ...], *, image_shape: tuple[int, ...], batch_size: int, **known
) -> Facts:
    """What a distiller's init may know, for batches of images (H, W, C); computes shapes only.

    Args:
      student: network in training.
      teachers: their networks, in order.
      image_shape: (H, W, C).
      batch_size: B.
      **known: other fields of Facts.
    """

    def view(image, label):
        outputs = [models.apply(m, models.init(m, jax.random.key(0), image), image)[0] for m in (student, *teachers)]
        batch = {"label": label, "index": label}
        return make_view(image, outputs[0], tuple(outputs[1:]), batch, jnp.zeros((), jnp.int32))

    image = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    shapes = jax.eval_shape(view, image, jax.ShapeDtypeStruct((batch_size,), jnp.int32))
    return Facts(shapes, num_classes=shapes.student.logits.shape[-1], **known)


def init_state(
    key: Array,
    *,
    student: nn.Module,
    distiller: Distiller,
    tx: optax.GradientTransformation,
    facts: Facts,
) -> TrainState:
    """The state before the first step; pure, jittable with the keyword arguments bound.

    The student's part depends on `key` alone, never on the distiller: the same student in two
    phases starts the same.

    Args:
      key: PRNG key.
      student: network in training.
      distiller: what it is trained by.
      tx: optimiser over {"student": ..., "method": ...}.
      facts: what the distiller's init may know; the student's input shape is read from it.
    """
    net = models.init(student, fold(key, "student"), jnp.zeros((1, *facts.view_shapes.image.shape[1:])))
    own = distiller.init(fold(key, "method"), facts)
    params = {"student": net.params, "method": own.params}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats={"student": net.stats, "method": own.stats},
        opt=tx.init(params),
        policy=own.policy,
        policy_opt=policy_adam(distiller.search).init(own.policy) if distiller.search else {},
    )


def abstract_state(**kwargs) -> TrainState:
    """`init_state` as shapes, without computing anything."""
    return jax.eval_shape(partial(init_state, **kwargs), jax.random.key(0))
