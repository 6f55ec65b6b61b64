"""SimKD: a student with its teacher's classifier learns the map that this classifier reads.

    mean((M f_S - M f_T)^2)

f_S is the student's last stage, f_T the map that the teacher's classifier reads, M the view's spatial mask.
"""

import jax
from flax import linen as nn

from kd_jax import losses
from kd_jax.losses.common import pool_to
from kd_jax.methods.base import no_vars, weigh
from kd_jax.methods.stages import mask_for, require_maps
from kd_jax.methods.terms import criterion
from kd_jax.models.graft import Graft
from kd_jax.typing import Array, Distiller, InitContext, InputError, Need, Schedule, Terms, Vars, View

ADVICE = "it needs a student graft:STUDENT+TEACHER"


def simkd(*, weight: float | Schedule = 1.0) -> Distiller:
    """SimKD: the projected last map of a grafted student is to be the map that the teacher's classifier reads.

        weight mean((M f_S - M f_T)^2)

    The student is the network "graft:STUDENT+TEACHER" (kd_jax.models.graft), which ends in a projector and the
    teacher's classifier. f_S is its last stage; f_T is the teacher's last map behind its ReLU, average-pooled to the
    size of f_S where it is larger. No other term is needed: the classifier is not trained. Of several teachers the
    first is read. Nothing is detached here. M is `view.spatial_mask` where a refiner has set it; the mean is over all
    elements, masked or not.

    Args:
      weight: a number, or a schedule of the step.

    Raises:
      InputError: when variables are made, a student that is no graft, or whose last stage has another width than the
        teacher's last map or is larger; a teacher with tokens, or whose classifier reads none of its stages.

    Reference: Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge Distillation with the Reused Teacher Classifier", 2022,
      arXiv 2203.14001.
    Differs: the map is read before its last ReLU, and the ReLU is applied here. So it is the map that the classifier
      reads also in wide residual networks, whose stages stand before a BatchNorm.
    """

    def init(key: Array, context: InitContext) -> Vars:
        require_maps("simkd", context)
        view = context.view_shapes
        ours, teacher = view.student.stages[-1], view.teachers[0]
        if not teacher.ends_in_a_stage:
            raise InputError("simkd: this teacher's classifier reads none of its stages")
        theirs = teacher.preacts[-1]
        if ours.shape[-1] != theirs.shape[-1] or any(map(int.__gt__, ours.shape[1:3], theirs.shape[1:3])):
            raise InputError(
                f"simkd: the student is no graft on this teacher: its last stage is {_size(ours)}, the teacher's "
                f"{_size(theirs)}; {ADVICE}"
            )
        if not isinstance(context.student, Graft | None):
            raise InputError(f"simkd: the network in training is a {type(context.student).__name__}; {ADVICE}")
        return no_vars(key, context)

    def terms(view: View) -> Terms:
        ours = view.student.stages[-1]
        theirs = pool_to(nn.relu(view.teachers[0].preacts[-1]), ours.shape[1:3])
        return {"": losses.fitnet(student=ours, teacher=theirs, mask=mask_for(view, ours))}

    return weigh(criterion(terms, frozenset({Need.TEACHER_PREACTS}), init), weight)


def _size(x: jax.ShapeDtypeStruct) -> str:
    return "x".join(map(str, x.shape[1:]))
