"""The view of a batch before any refiner: what student and teachers say of it."""

from collections.abc import Callable

from flax import linen as nn
from jax.tree_util import Partial

from kd_jax.layers.keys import fold
from kd_jax.losses.common import mean_logits
from kd_jax.models.base import apply
from kd_jax.typing import Array, Batch, Match, Outputs, PyTree, Variables, View, alone


def as_teachers(teacher_outputs: Outputs | tuple[Outputs, ...] | None) -> tuple[Outputs, ...]:
    """One teacher, several or none, as a tuple."""
    if teacher_outputs is None:
        return ()
    return (teacher_outputs,) if isinstance(teacher_outputs, Outputs) else tuple(teacher_outputs)


def make_view(
    image: Array,
    student: Outputs,
    teachers: tuple[Outputs, ...],
    batch: Batch,
    step: Array,
    *,
    needs=frozenset(),
    **more,
) -> View:
    """The view before any refiner. The pair of logits to match holds the average of several teachers' logits, and a
    student's distillation token's where it has one.

    Args:
      image, student, teachers, step: see View.
      batch: label and index, as far as there are any.
      needs: of the distiller; `alone(i)` among them adds the view of that teacher alone.
      **more: other fields of View.
    """
    ours = student.logits if student.distill_logits is None else student.distill_logits
    match = Match(ours, mean_logits(teachers)) if teachers else None
    more["soft_labels"] = batch.get("soft_label")
    view = View(image, student, teachers, match, batch.get("label"), batch.get("index"), step, **more)
    each = {alone(i): teachers[i : i + 1] for i in range(len(teachers)) if alone(i) in needs}
    single = {name: make_view(image, student, one, batch, step) for name, one in each.items()}
    return view._replace(extra_views=view.extra_views | single) if single else view


def student_runner(model: nn.Module, params: PyTree, key: Array, train: bool) -> Partial:
    """(stats, image, name="", after=-1) -> (Outputs, stats): the student with these parameters, as a View holds it.

    Where the network draws random numbers, those of another name are others. In scope "device" every device draws the
    same ones, for its own rows. after: of `models.apply`.
    """

    def run(
        params: PyTree, key: Array, stats: PyTree, image: Array, name: str = "", after: int = -1
    ) -> tuple[Outputs, PyTree]:
        return apply(model, Variables(params, stats), image, train=train, key=fold(key, name), after=after)

    return Partial(run, params, key)


def student_views(
    apply_student: Callable, stats: PyTree, teachers: tuple[Outputs, ...], batch: Batch, step: Array, needs: frozenset
) -> View:
    """Run the student on a batch and on the extra views in it, one after the other.

    Args:
      apply_student: see `student_runner`.
      stats: the student's BatchNorm statistics before.
      teachers: their outputs for `batch["image"]`; those for an extra view stand in `batch["views"][NAME]`.
      batch, step, needs: as for `make_view`.
    """
    student, stats = apply_student(stats, batch["image"])
    views = {}
    for name, extra in batch.get("views", {}).items():
        again, stats = apply_student(stats, extra["image"], name)
        views[name] = make_view(extra["image"], again, extra["teachers"], batch, step)
    more = {"extra_views": views, "apply_student": apply_student, "student_stats": stats}
    return make_view(batch["image"], student, teachers, batch, step, needs=needs, **more)
