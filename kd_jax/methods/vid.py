"""VID, variational information distillation: the student's maps are to predict the teacher's maps well.

    sum over stages of mean( (r(f_S) - f_T)^2 / (2 s) + log(s) / 2 ),   s = softplus(log_scale) + eps

The Gaussian's mean r(f_S) and its variance s are trained together with the student.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.layers.projector import Projector
from kd_jax.losses.common import to_common_size
from kd_jax.methods.base import fold, require, weigh
from kd_jax.methods.stages import NEEDS, last_stages, masked, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Schedule, Vars, View


def vid(*, weight: float | Schedule = 1.0, init_variance: float = 5.0, eps: float = 1e-5) -> Distiller:
    """VID: of every stage the teacher's map is to be likely under a Gaussian whose mean the student's map predicts.

        weight sum over stages of mean( (r(f_S) - f_T)^2 / (2 s) + log(s) / 2 ),   s = softplus(log_scale) + eps

    r is kd_jax.layers.projector.Projector in the teacher's width, log_scale one parameter for every channel; both are
    trained together with the student. All stages but the stem are compared. Of two maps that differ in size, the
    larger is average-pooled before. Nothing is detached here. Of several teachers the first is read. Where a refiner
    has set `view.spatial_mask`, r(f_S) and f_T are multiplied by it.

    Args:
      weight: a number, or a schedule of the step.
      init_variance: > eps, s at the start.
      eps: > 0, smallest variance.

    Raises:
      InputError: an argument outside its range; a network without a stage behind the stem, when variables are made.

    Reference: Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer", 2019,
      arXiv 1904.05835.
    Differs: variances are trained, as in the paper and in RepDistiller; mdistiller does not give them to its
      optimiser, so that they do not change. Networks with different numbers of stages are aligned from the
      output side; the published code pairs them from the input side.
    """
    require(
        "vid",
        eps=(eps, 0 < eps < math.inf, "a finite number above 0"),
        init_variance=(init_variance, eps < init_variance < math.inf, "a finite number above eps"),
    )
    start = init_variance - eps
    start += math.log(-math.expm1(-start))  # softplus backwards, log(exp(start) - 1)

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("vid", context)
        params = {}
        for i, (student, teacher) in enumerate(zip(*last_stages(context.view_shapes), strict=True), 1):
            x, width = jnp.zeros((1, 1, 1, student.shape[-1])), teacher.shape[-1]
            projector = Projector(width).init(fold(key, f"stage{i}"), x)["params"]
            params[f"stage{i}"] = {"projector": projector, "log_scale": jnp.full((width,), start, jnp.float32)}
        return Vars(params, {}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        total = 0.0
        for i, pair in enumerate(zip(*last_stages(view), strict=True), 1):
            params, (student, teacher) = vars.params[f"stage{i}"], to_common_size(*pair)
            mean = Projector(teacher.shape[-1]).apply({"params": params["projector"]}, student)
            variance = jax.nn.softplus(params["log_scale"]) + eps
            total += losses.vid(student=masked(view, mean), teacher=masked(view, teacher), variance=variance)
        return view, {"": total}, {}, {}

    return weigh(Distiller(init, apply, NEEDS), weight)
