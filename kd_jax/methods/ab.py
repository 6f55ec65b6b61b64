"""AB, activation boundaries: before the ReLU, the student is trained to be on the teacher's side of 0.

    3/1000 sum_i 2^-(L - i) sum d(c(f_S), f_T)^2,   d = max(m - s, 0) where t > 0, else max(s + m, 0)

A connector c gives the student's map the teacher's shape. AB trains in a phase of its own, before the student's.
"""

import math

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.layers.factors import LinearRegressor
from kd_jax.methods.base import fold, require, run, weigh
from kd_jax.methods.stages import last_preacts, mask_for, require_maps, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Need, Schedule, Vars, View

NEEDS = frozenset({Need.STUDENT_PREACTS, Need.TEACHER_PREACTS})


def ab(*, weight: float | Schedule = 1.0, margin: float = 1.0) -> Distiller:
    """AB: before the last ReLU of a stage, the student is to be on the teacher's side of 0, and a margin off it.

        weight 3/1000 sum_i 2^-(L - i) sum d(c(f_S), f_T)^2,   d = max(m - s, 0) where t > 0, else max(s + m, 0)

    c is kd_jax.layers.factors.LinearRegressor, trained together with the student. A stage whose maps have the same
    shape in both networks has no c. All stages but the stem are compared. Nothing is detached here. Of several
    teachers the first is read. Where a refiner has set `view.spatial_mask`, d is multiplied by it.

    As published it is the only term of a phase before the student's: it trains the student up to its last stage,
    and the next phase starts from there (init.student="phase:NAME") with `ce` alone.

    Args:
      weight: a number, or a schedule of the step.
      margin: m, >= 0.

    Raises:
      InputError: a margin out of range; when variables are made, a network without pre-activation features
        (MobileNetV2), without a stage behind the stem or with tokens, or maps of sizes that the connector cannot
        match.

    Reference: Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
      Neurons", 2018, arXiv 1811.03233.
    Differs: networks with different numbers of stages are aligned from the output side; the published code refuses
      them.
    """
    require("ab", margin=(margin, 0 <= margin < math.inf, "a finite number, at least 0"))

    def init(key: Array, context: InitContext) -> Vars:
        require_maps("ab", context)
        require_stages("ab", context)
        params, stats = {}, {}
        for i, (student, teacher) in enumerate(zip(*last_preacts("ab", context.view_shapes), strict=True), 1):
            if student.shape != teacher.shape:
                name, x = f"stage{i}", jnp.zeros((1, *student.shape[1:]))
                connector = LinearRegressor(teacher.shape[1:]).init(fold(key, name), x)
                params[name], stats[name] = connector["params"], connector["batch_stats"]
        return Vars(params, stats, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        students, teachers = last_preacts("ab", view)
        stats, connected = {}, []
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True), 1):
            if (name := f"stage{i}") in vars.params:
                connector = LinearRegressor(teacher.shape[1:])
                student, stats[name] = run(connector, vars.params[name], vars.stats[name], student, train=train)
            connected.append(student)
        masks = [mask_for(view, t) for t in teachers]
        value = losses.ab(students=connected, teachers=teachers, margin=margin, masks=masks)
        return view, {"": value}, {}, stats

    return weigh(Distiller(init, apply, NEEDS), weight)
