"""FitNet: the student's map of one stage, through a regressor, is to equal the teacher's.

    mean((M r(f_S) - M f_T)^2)

r is trained together with the student. M is the view's spatial mask, or 1 everywhere.
"""

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.methods.base import require, run, weigh
from kd_jax.methods.stages import NEEDS, mask_for, regressed, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Schedule, Vars, View


def fitnet(*, weight: float | Schedule = 100.0, stage: int = 2, depth: int = 1) -> Distiller:
    """FitNet: the student's map of one stage, through a regressor, is to be the teacher's.

        weight mean((M r(f_S) - M f_T)^2)

    r is kd_jax.layers.regressor.Regressor, trained together with the student; its parameters and BatchNorm
    statistics are the method's. Nothing is detached here. Of several teachers the first is read. M is
    `view.spatial_mask` where a refiner has set it, in the stage's size; the mean is over all elements, masked or not.

    Args:
      weight: a number, or a schedule of the step.
      stage: index in `Outputs.stages` of both networks, the stem being 0.
      depth: >= 1, convolutions of the regressor; SoKD has 3.

    Raises:
      InputError: an argument outside its range; when variables are made, a stage that one of the two networks does
        not have, or maps of sizes that the regressor cannot match.

    Reference: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", 2015,
      arXiv 1412.6550.
    Differs: the paper trains up to the hint first and distils afterwards; here, as in the published
      re-implementations, everything is trained at once. The paper has no transformers: tokens are read as the map of
      their patches, without the class token. A teacher's tokens have either sign; for them the regressor's last
      ReLU is left out.
    """
    require("fitnet", stage=(stage, stage >= 0, "at least 0"), depth=(depth, depth >= 1, "at least 1"))

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("fitnet", context, stage)
        layer, student, _ = regressed(context.view_shapes, stage, depth)
        regressor = layer.init(key, jnp.zeros((1, *student.shape[1:])))
        return Vars({"regressor": regressor["params"]}, {"regressor": regressor["batch_stats"]}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        layer, student, teacher = regressed(view, stage, depth)
        student, stats = run(layer, vars.params["regressor"], vars.stats["regressor"], student, train=train)
        value = losses.fitnet(student=student, teacher=teacher, mask=mask_for(view, teacher))
        return view, {"": value}, {}, {"regressor": stats}

    return weigh(Distiller(init, apply, NEEDS), weight)
