"""CAT-KD, class attention transfer: the student is to find the evidence for a class where the teacher finds it."""

from kd_jax import losses
from kd_jax.methods.base import no_vars, require, weigh
from kd_jax.methods.stages import masked, require_cam
from kd_jax.methods.terms import criterion
from kd_jax.typing import Array, Distiller, InitContext, Need, Schedule, Terms, Vars, View


def cat_kd(*, weight: float | Schedule = 400.0, resolution: int = 2, normalize: bool = True) -> Distiller:
    """CAT-KD: the mean squared difference of class activation maps, pooled to resolution x resolution.

    The maps are `Outputs.cam`, the classifier at every place of the last map. Of several teachers the first is read.
    Nothing is detached here. Where a refiner has set `view.spatial_mask`, both maps are multiplied by it before.

    The defaults are those of the published code. Its settings for CIFAR-100 depend on the pair (configs/pairs.py):
    weights of 15 to 600 for normalised maps, 0.7 to 15 for maps that are not.

    Args:
      weight: a number, or a schedule of the step.
      resolution: >= 1; a map that is smaller must divide it.
      normalize: whether every pooled map of a class is divided by its L2 norm.

    Raises:
      InputError: a resolution out of range; when variables are made, a resolution that a map cannot be pooled or
        repeated to, or a network without class activation maps.

    Reference: Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation", 2023, arXiv 2304.12777.
    Differs: the published code changes the networks: a convolution 1x1 without bias replaces the classifier; the
      teacher's has the weights of its classifier, but not the bias. Here networks do not change, and the bias is part
      of every place of a map, so that the mean of a map is the logit.
    """
    require("cat_kd", resolution=(resolution, resolution >= 1, "at least 1"))

    def terms(view: View) -> Terms:
        student, teacher = (masked(view, outputs.cam) for outputs in (view.student, view.teachers[0]))
        return {"": losses.cat_kd(student=student, teacher=teacher, resolution=resolution, normalize=normalize)}

    return weigh(criterion(terms, frozenset({Need.STUDENT_CAM, Need.TEACHER_CAM}), _init), weight)


def _init(key: Array, context: InitContext) -> Vars:
    require_cam("cat_kd", context)
    return no_vars(key, context)
