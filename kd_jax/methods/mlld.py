"""MLLD, multi-level logit distillation: instances, classes and the batch, on a usual and a strongly augmented view.

    mlld(match, match of the strong view)  +  CE(student on the strong view, labels)

The first part is kd_jax.losses.multi_level.
"""

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.methods.base import require
from kd_jax.methods.terms import KD_TEMPERATURE, on_two_views, reads
from kd_jax.typing import Array, Distiller, Schedule, Terms, View


def mlld(
    *,
    weight: float | Schedule = 0.9,
    ce_weight: float = 0.1,
    temperature: float | None = None,
    temperatures: tuple[float, ...] = (3.0, 5.0),
    weak_temperatures: tuple[float, ...] = (2.0, 6.0),
) -> Distiller:
    """Multi-level logit distillation: instances, classes and the batch compared at five temperatures, on two views.

        weight mlld(match, match of the strong view)  +  ce_weight CE(student on the strong view, labels)

    The loss is that of kd_jax.losses.multi_level. KD compares the pairs in `match` as refiners have changed them. The
    masks, the class level and the batch level read the networks' raw logits of the weak view (of several teachers the
    average), as the published code does with LSKD. But they use the temperature that a refiner sets: behind
    lskd(temperature=2) the temperatures are 2, 3, 5, 2 and 6 everywhere. They are the same for both sides, also where
    a refiner softens the teacher alone (skd).

    The recipe's `ce` is the task loss on the weak view. The task loss on the strong view belongs to this method: it is
    the term "ce" beside the term "", and `weight` does not scale it. The published total is hence ce(weight=0.1) and
    mlld(); with LSKD ce(weight=0.1), lskd(temperature=2) and mlld(weight=9), for some pairs mlld(weight=6).

    The networks' outputs for the strong view are `view.extra_views["strong"]`. Under parallel.scope="device" each
    device compares only its own examples, in scope "global" the whole batch.

    Args:
      weight: a number, or a schedule of the step; 0 turns the whole member off.
      ce_weight: >= 0, of the task loss on the strong view.
      temperature: T > 0; None takes the one that a refiner has set, or else 4.
      temperatures: each > 0; more temperatures at which both views are compared.
      weak_temperatures: each > 0; temperatures at which the strong view is not compared (see the loss).

    Returns:
      A Distiller with the terms "", about the batch: (), and "ce", (B,).

    Raises:
      InputError: an argument outside its range.

    Reference: Jin, Wang, Lin, "Multi-Level Logit Distillation", 2023 (CVPR).
    Differs: the defaults are the published code's, its slips included: see kd_jax.losses.multi_level.
    """
    finite = float("inf")
    require(
        "mlld",
        ce_weight=(ce_weight, 0 <= ce_weight < finite, "a finite number, at least 0"),
        temperatures=(temperatures, all(map(_above_0, temperatures)), "finite numbers above 0"),
        weak_temperatures=(weak_temperatures, all(map(_above_0, weak_temperatures)), "finite numbers above 0"),
    )
    more = {"temperatures": temperatures, "weak_temperatures": weak_temperatures}

    def levels(view: View) -> Terms:
        strong = view.extra_views["strong"].match
        pairs = {"student": view.match.student, "teacher": view.match.teacher}
        pairs |= {"student_strong": strong.student, "teacher_strong": strong.teacher}
        plain = {"plain_student": view.student.logits, "plain_teacher": mean_logits(view.teachers)}
        return {"": losses.mlld(**pairs, **plain, temperature=_of_both(view, temperature), **more)}

    return on_two_views(levels, reads("mlld", temperature), weight, ce_weight)


def _of_both(view: View, temperature: float | None) -> Array | float:
    """One temperature for both sides: the method's own, or else the one that a refiner has set for the teacher."""
    match = view.match
    of_teacher = match.temperature if match.teacher_temperature is None else match.teacher_temperature
    return temperature or (KD_TEMPERATURE if of_teacher is None else of_teacher)


def _above_0(temperature: float) -> bool:
    return isinstance(temperature, int | float) and 0 < temperature < float("inf")
