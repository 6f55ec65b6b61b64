"""DAM, SoKD's distinctive area detection: compare student and teacher in the areas that both find important.

    weight mean(([heat, size, offset](r(f_S)) - [heat, size, offset](f_T))^2)

The same three heads read the teacher's map and the student's map behind a regressor r. Boxes around the student's
highest peaks of heat become a mask. Feature criteria that follow multiply both maps by that mask.
"""

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.layers.areas import OVERLAPS, AreaHeads, Areas, masks
from kd_jax.methods.base import fold, require, run, weigh
from kd_jax.methods.stages import NEEDS, regressed, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Monitor, Need, Schedule, Vars, View


def detected(
    heads: AreaHeads, vars: Vars, view: View, train: bool, *, stage: int, depth: int
) -> tuple[Areas, Areas, dict]:
    """What the heads find in the maps of student and teacher, and the regressor's new statistics."""
    layer, student, teacher = regressed(view, stage, depth)
    student, stats = run(layer, vars.params["regressor"], vars.stats["regressor"], student, train=train)
    areas = (heads.apply({"params": vars.params["heads"]}, x) for x in (student, teacher))
    return *areas, {"regressor": stats}


def dam(
    *,
    weight: float | Schedule = 100.0,
    stage: int = 2,
    areas: int = 8,
    channels: int = 100,
    depth: int = 3,
    overlap: str = "clip",
    heat_relu: bool = False,
) -> Distiller:
    """Distinctive area detection: sets `spatial_mask`, the areas in which student and teacher are compared.

        weight mean(([heat, size, offset](r(f_S)) - [heat, size, offset](f_T))^2)

    The same three heads read the teacher's map and the student's map behind a regressor r. Boxes around the student's
    highest peaks become a mask. Feature criteria that follow multiply both maps by it.

    Args:
      weight: of the module's term, a number or a schedule of the step; exactly 0 leaves the module out.
      stage: index in `Outputs.stages` of both networks.
      areas: number of boxes.
      channels: of the heat map.
      depth: convolutions of the regressor.
      overlap: of boxes in the mask: "clip" to 1 or "sum".
      heat_relu: a ReLU before the heat's sigmoid, as in the public code.

    Returns:
      A Distiller with one term. Logs: share, of the map that the mask covers; heat_std, deviation of the student's
      heat over positions (0.02 is usual at the start). Below 0.001 a run warns: the heads have become constant, the
      term's trivial solution, so that peaks and areas are arbitrary.

    Raises:
      InputError: an argument outside its range; a stage that one network does not have.

    Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge
      Distillation", 2024, arXiv 2409.18785.
    Differs: the equations were read in a public working copy of the same family. Ours: overlaps clipped, no ReLU before
      the heat's sigmoid, and a separate regressor beside that of the criterion that follows. The paper has no
      transformers: tokens are read as the map of their patches without the class token. Where the teacher has
      tokens, the regressor's last ReLU is left out too.
    """
    _check(stage, areas, channels, depth, overlap)
    heads = AreaHeads(channels, heat_relu)

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("dam", context, stage)
        layer, student, teacher = regressed(context.view_shapes, stage, depth)
        regressor = layer.init(fold(key, "regressor"), jnp.zeros((1, *student.shape[1:])))
        head_vars = heads.init(fold(key, "heads"), jnp.zeros((1, *teacher.shape[1:])))
        params = {"regressor": regressor["params"], "heads": head_vars["params"]}
        return Vars(params, {"regressor": regressor["batch_stats"]}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        student, teacher, stats = detected(heads, vars, view, train, stage=stage, depth=depth)
        mask = masks(*student, k=areas, overlap=overlap)
        logs = {
            "share": jnp.mean(mask > 0, axis=(1, 2, 3)),
            "heat_std": jnp.mean(jnp.std(student.heat, axis=(1, 2)), axis=-1),
        }
        return view._replace(spatial_mask=mask), {"": losses.areas(student=student, teacher=teacher)}, logs, stats

    def visualizations(vars: Vars, view: View) -> dict[str, Array]:
        pair = detected(heads, vars, view, False, stage=stage, depth=depth)[:2]
        boxes = (masks(*detected_areas, k=areas, overlap="sum")[..., 0] for detected_areas in pair)
        return dict(zip(("student", "teacher"), boxes, strict=True))

    return weigh(
        Distiller(init, apply, NEEDS, monitors=MONITORS, visualizations=visualizations, refines=REFINED), weight
    )


REFINED = frozenset({Need.TEACHER_STAGES, Need.TEACHER_PREACTS, Need.TEACHER_CAM})  # what criteria multiply by the mask
MONITORS = (
    Monitor("share", unit="share of the map"),
    Monitor(
        "heat_std",
        1e-3,
        "the heads say the same of every place (the term's trivial solution): the areas mean nothing",
        "deviation of the heat",
    ),
)


def _check(stage: int, areas: int, channels: int, depth: int, overlap: str) -> None:
    """Refuse arguments of `dam` that are out of range."""
    require(
        "dam",
        stage=(stage, stage >= 0, "at least 0"),
        areas=(areas, areas >= 1, "at least 1"),
        channels=(channels, channels >= 1, "at least 1"),
        depth=(depth, depth >= 1, "at least 1"),
        overlap=(overlap, overlap in OVERLAPS, " or ".join(OVERLAPS)),
    )
