"""TTM: the teacher alone is softened; WTTM: examples weigh as much as their teacher's distribution is broad."""

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.methods.base import require, weigh
from kd_jax.methods.terms import criterion
from kd_jax.typing import Distiller, Need, Schedule, Terms, View

NEEDS = frozenset({Need.MATCH})


def ttm(*, weight: float | Schedule = 1.0, gamma: float = 0.1) -> Distiller:
    """Transformed teacher matching of the pair in `match`.

        KL(softmax(gamma teacher) || softmax(student))

    gamma takes the place of the temperature that a refiner has set; the student has none. Published weights, beside
    1.0 of `ce`, are by pair (configs/pairs.py): 7 to 101.

    Args:
      weight: a number, or a schedule of the step.
      gamma: > 0; 1 / T of KD's teacher.

    Raises:
      InputError: a gamma that is not above 0.

    Reference: Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", 2024, arXiv 2402.11148.
    """
    return weigh(criterion(_terms("ttm", gamma, weighted=False), NEEDS), weight)


def wttm(*, weight: float | Schedule = 1.0, gamma: float = 0.1) -> Distiller:
    """Weighted transformed teacher matching: examples weigh as much as their teacher's distribution is broad.

        U KL(softmax(gamma teacher) || softmax(student)),   U = sum_c softmax(raw teacher)_c^gamma

    U is 1 for a teacher that is sure and K^(1 - gamma) for one that knows nothing, 63 for 100 classes and 0.1:
    published weights are therefore smaller than TTM's, 1.4 to 16.

    Args:
      weight: a number, or a schedule of the step.
      gamma: > 0; 1 makes it TTM, and KD at T = 1.

    Raises:
      InputError: a gamma that is not above 0.

    Reference: Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", 2024, arXiv 2402.11148.
    """
    return weigh(criterion(_terms("wttm", gamma, weighted=True), NEEDS), weight)


def _terms(name: str, gamma: float, *, weighted: bool):
    require(name, gamma=(gamma, 0 < gamma < float("inf"), "a finite number above 0"))

    def terms(view: View) -> Terms:
        values = losses.ttm(student=view.match.student, teacher=view.match.teacher, gamma=gamma)
        return {"": values * losses.power_sum(teacher=mean_logits(view.teachers), gamma=gamma) if weighted else values}

    return terms
