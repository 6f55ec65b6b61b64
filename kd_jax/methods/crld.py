"""CRLD: logits of a usual and a strongly augmented view, within each view and across the two, where the teacher is
sure."""

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.methods.base import require
from kd_jax.methods.terms import on_two_views, pair_of, reads
from kd_jax.typing import Distiller, Schedule, Terms, View


def crld(
    *,
    weight: float | Schedule = 1.0,
    ce_weight: float = 1.0,
    within: float = 2.0,
    cross: float = 0.5,
    temperature: float | None = None,
    weak_confidence: float = 0.9,
    strong_confidence: float = 0.2,
) -> Distiller:
    """Cross-view consistency regularisation for knowledge distillation.

        weight crld(match, match of the strong view)  +  ce_weight CE(student on the strong view, labels)

    The loss is kd_jax.losses.crld. KD compares the pairs in `match` as refiners have changed them; how sure the
    teacher is say its raw logits. The recipe's `ce` is the task loss on the weak view; that on the strong view is the
    term "ce" here, which `weight` does not scale. The outputs for the strong view are `view.extra_views["strong"]`;
    the published one has RandAugment(2, 10) and a cutout.

    Args:
      weight: a number, or a schedule of the step; 0 turns the whole member off.
      ce_weight: >= 0, of the task loss on the strong view; 1 as published, beside 1 of `ce`, 2 and 2 on ImageNet.
      within, cross: >= 0, weights of the terms of one view and of two.
      temperature: T > 0; None takes the one that a refiner has set for the weak view, or else 4.
      weak_confidence, strong_confidence: in [0, 1], the teacher's least confidence on a view.

    Returns:
      A Distiller with the terms "" and "ce", (B,).

    Raises:
      InputError: an argument outside its range.

    Reference: Zhang et al., "Cross-View Consistency Regularisation for Knowledge Distillation", 2024, arXiv 2412.16493.
    """
    needs, finite, share = reads("crld", temperature), float("inf"), "a share, 0 to 1"
    at_least_0 = {"ce_weight": ce_weight, "within": within, "cross": cross}
    require("crld", **{name: (x, 0 <= x < finite, "a finite number, at least 0") for name, x in at_least_0.items()})
    sure = {"weak_confidence": weak_confidence, "strong_confidence": strong_confidence}
    require("crld", **{name: (x, 0 <= x <= 1, share) for name, x in sure.items()})

    def views(view: View) -> Terms:
        strong = view.extra_views["strong"]
        pair, other = pair_of(view, temperature), pair_of(strong, temperature)
        scale = pair["temperature"] / other["temperature"]  # of examples that have their own in each view
        return {"": losses.crld(
            **pair, student_strong=scale * other["student"], teacher_strong=scale * other["teacher"],
            raw_teacher=mean_logits(view.teachers), raw_teacher_strong=mean_logits(strong.teachers),
            within=within, cross=cross, **sure,
        )}  # fmt: skip

    return on_two_views(views, needs, weight, ce_weight)
