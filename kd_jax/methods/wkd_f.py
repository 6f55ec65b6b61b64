"""WKD-F: cells of the last map as Gaussians, compared by the Wasserstein distance."""

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.methods.base import require, run, weigh
from kd_jax.methods.stages import NEEDS, masked, regressed, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Schedule, Vars, View


def wkd_f(*, weight: float | Schedule = 0.08, stage: int = -1, grid: int = 1, ratio: float = 4.0) -> Distiller:
    """WKD-F: the student's map of one stage, through a projector, is to have the teacher's distribution in every cell.

        weight wkd_f(r(f_S), f_T)

    The loss is kd_jax.losses.wkd_f; r is kd_jax.layers.regressor.Regressor, at equal sizes a convolution 1x1,
    BatchNorm, ReLU, trained together with the student. Where a refiner has set `view.spatial_mask`, both maps are
    multiplied by it. Nothing is detached here. Of several teachers the first is read. The defaults are published for
    resnet32x4 and resnet8x4; others by pair are in configs/pairs.py.

    Args:
      weight: a number, or a schedule of the step. The published code lets it fall to 0 along a cosine.
      stage: index in `Outputs.stages` of both networks, -1 for the last one.
      grid: >= 1, cells a side.
      ratio: >= 0, weight of the means beside the deviations.

    Raises:
      InputError: an argument outside its range; when variables are made, a stage that one of the two networks does
        not have, maps of sizes that the projector cannot match, or a grid that is too fine for them.

    Reference: Lv, Yang, Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", 2024,
      arXiv 2412.08139.
    Differs: the published projector is of three convolutions on ImageNet; there is one here. The published recipe has
      Nesterov momentum and lets the weight fall; ours has neither (config.student.optim.nesterov=True for the first).
    """
    finite = float("inf")
    require(
        "wkd_f",
        stage=(stage, stage >= -1, "at least -1"),
        grid=(grid, grid >= 1, "at least 1"),
        ratio=(ratio, 0 <= ratio < finite, "a finite number, at least 0"),
    )

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("wkd_f", context, max(stage, 0))
        layer, student, teacher = regressed(context.view_shapes, stage, 1)
        losses.wkd_f(student=jnp.zeros((1, *teacher.shape[1:])), teacher=jnp.zeros((1, *teacher.shape[1:])), grid=grid)
        projector = layer.init(key, jnp.zeros((1, *student.shape[1:])))
        return Vars({"projector": projector["params"]}, {"projector": projector["batch_stats"]}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        layer, student, teacher = regressed(view, stage, 1)
        projected, stats = run(layer, vars.params["projector"], vars.stats["projector"], student, train=train)
        pair = {"student": masked(view, projected), "teacher": masked(view, teacher)}
        return view, {"": losses.wkd_f(**pair, grid=grid, ratio=ratio)}, {}, {"projector": stats}

    return weigh(Distiller(init, apply, NEEDS), weight)
