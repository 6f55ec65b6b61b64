"""NKD: the label by the teacher's probability of it, the other classes by themselves."""

from kd_jax import losses
from kd_jax.methods.base import weigh
from kd_jax.methods.terms import LABELS, criterion, reads, with_raw_teacher
from kd_jax.typing import Distiller, Schedule, Terms, View


def nkd(
    *,
    weight: float | Schedule = 1.0,
    gamma: float = 1.5,
    temperature: float | None = 1.0,
    divergence: bool = False,
) -> Distiller:
    """Normalised knowledge distillation of the pair in `match` (kd_jax.losses.nkd).

    The teacher's probability of the label is that of its raw logits; the classes beside it are those of `match`.

    Args:
      weight: a number, or a schedule of the step.
      gamma: weight of the other classes' part; published with T are 1.5 and 1 for ImageNet, 3.5 and 3 for CIFAR-100.
      temperature: T > 0 of the other classes' part; None takes the one that a refiner has set, or else 4.
      divergence: take a divergence in that part in place of a cross-entropy. The student's gradient is the same; behind
        a refiner that learns (skd) a cross-entropy draws the target to one class.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
      Approach with Normalized Loss and Customized Soft Labels", 2023, arXiv 2303.13005.
    Differs: `divergence` is ours.
    """
    needs = reads("nkd", temperature) | LABELS

    def terms(view: View) -> Terms:
        pair = with_raw_teacher(view, temperature)
        return {"": losses.nkd(**pair, labels=view.labels, gamma=gamma, divergence=divergence)}

    return weigh(criterion(terms, needs), weight)
