"""DeiT: the student's distillation token learns from the teacher, its class token from the labels."""

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.methods.base import require, weigh
from kd_jax.methods.terms import criterion, pair_of, reads
from kd_jax.typing import Distiller, Need, Schedule, Terms, View


def deit(
    *, weight: float | Schedule = 0.5, distillation: str = "hard", temperature: float | None = 3.0,
    over_classes: bool = False,
) -> Distiller:  # fmt: skip
    """DeiT's distillation of the logits of the student's distillation token, which `match` holds:

        hard: CE(student, argmax(teacher)),   soft: T^2 KL(teacher || student)

    `ce` beside it trains the class token. In evaluation the student's logits are the mean of both. The soft form is
    `kd`, which does the same for such a student, as does every criterion on `match`.

    Args:
      weight: a number, or a schedule of the step; lambda or a beside 1 - a of `ce`.
      distillation: "hard" or "soft".
      temperature: of the soft form, T > 0; None takes the one that a refiner has set, or else 4.
      over_classes: whether the soft form is divided by the number of classes too, as in the published code.

    Raises:
      InputError: a form or a temperature out of range; a student without a distillation token.

    Reference: Touvron, Cord, Douze, Massa, Sablayrolles, Jegou, "Training data-efficient image transformers &
      distillation through attention", 2020, arXiv 2012.12877.
    Differs: the published code takes the mean of the soft form over classes, so that it weighs K times less than its
      equation says (`over_classes`). Of two equal logits of the teacher, the first is its label.
    """
    require("deit", distillation=(distillation, distillation in ("hard", "soft"), "hard or soft"))
    soft = distillation == "soft"
    needs = frozenset({Need.STUDENT_DISTILL_LOGITS, Need.MATCH}) | (reads("deit", temperature) if soft else set())

    def terms(view: View) -> Terms:
        if soft:
            return {"": losses.kd(**pair_of(view, temperature)) / (view.match.student.shape[-1] if over_classes else 1)}
        labels = jnp.argmax(view.match.teacher, axis=-1)
        return {"": losses.cross_entropy(student=view.match.student, labels=labels)}

    return weigh(criterion(terms, needs), weight)
