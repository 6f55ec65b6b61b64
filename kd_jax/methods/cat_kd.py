"""Class attention transfer: the student is to find the evidence for every class where the teacher finds it."""

from kd_jax import losses
from kd_jax.methods.base import require, weigh
from kd_jax.methods.stages import focused
from kd_jax.methods.terms import criterion
from kd_jax.typing import Distiller, Need, Schedule, Terms, View


def cat_kd(*, weight: float | Schedule = 400.0, resolution: int = 2, normalize: bool = True) -> Distiller:
    """CAT-KD: the mean squared difference of class activation maps, pooled to resolution x resolution.

    The maps are `Outputs.cam`, the classifier at every place of the last map. Of several teachers the first is read.
    Nothing is detached here. Where a refiner has set `view.spatial_mask`, both maps are multiplied by it before.

    The defaults are those of the published code. Its settings for CIFAR-100 are chosen by pair (configs/pairs.py):
    maps normalised with weights of 15 to 600, or as they are with 0.7 to 15.

    Args:
      weight: a number, or a schedule of the step.
      resolution: >= 1; a map that is smaller must divide it.
      normalize: whether every pooled map of a class is divided by its L2 norm.

    Raises:
      ValueError: resolution out of range, or, when variables are made, one that a map cannot be taken to.

    Reference: Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation", 2023, arXiv 2304.12777.
    Differs: the published networks are changed for it: a convolution 1x1 without bias stands for the classifier, the
      teacher's has the weights of the classifier and loses its bias. Here networks stay as they are, and the bias is
      part of every place of a map, so that the mean of a map is the logit.
    """
    require("cat_kd", resolution=(resolution, resolution >= 1, "at least 1"))

    def terms(view: View) -> Terms:
        student, teacher = (focused(view, outputs.cam) for outputs in (view.student, view.teachers[0]))
        return {"": losses.cat_kd(student=student, teacher=teacher, resolution=resolution, normalize=normalize)}

    return weigh(criterion(terms, frozenset({Need.STUDENT_CAM, Need.TEACHER_CAM})), weight)
