"""OFD, overhaul of feature distillation: the student learns the teacher's maps before their ReLU, above a margin.

    sum_i 2^-(L - i) sum d(c(f_S), f_T, m)^2,   d = s - t where t > 0, else max(s - max(t, m), 0)

c is a connector, m the expectation of what the teacher's ReLU would cut off.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from kd_jax import losses
from kd_jax.layers.projector import Connector
from kd_jax.losses.common import upcast
from kd_jax.methods.base import fold, run, weigh
from kd_jax.methods.stages import last_preacts, masked, require_maps, require_stages
from kd_jax.typing import Array, Distiller, InitContext, InputError, Need, Schedule, Vars, View

NEEDS = frozenset({Need.STUDENT_PREACTS, Need.TEACHER_PREACTS, Need.FIXED_TEACHER})


def ofd(*, weight: float | Schedule = 1e-3) -> Distiller:
    """OFD: the student's maps before their ReLU, through a connector, are to be the teacher's where those count.

        weight sum_i 2^-(L - i) sum d(c(f_S), f_T, m)^2,   d = s - t where t > 0, else max(s - max(t, m), 0)

    c is kd_jax.layers.projector.Connector, trained together with the student. m is `margin` of the teacher's BatchNorm
    before the stage's ReLU; it is computed once and is part of the method's statistics. All stages but the stem are
    compared; the teacher's maps are average-pooled to the student's size. Nothing is detached here. Of several
    teachers the first is read. Where a refiner has set `view.spatial_mask`, c(f_S) and f_T are multiplied by it.

    Args:
      weight: a number, or a schedule of the step.

    Raises:
      InputError: when variables are made, a teacher without `bn_before_relu`, the names of the BatchNorms before its
        ReLUs (MobileNetV2, the ShuffleNets), a student without pre-activation features, or a network without a stage
        behind the stem or with tokens.

    Reference: Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019,
      arXiv 1904.01866.
    Differs: where the teacher has more stages than the student, margins are aligned from the output side as the
      maps are; the published code takes the first ones.
    """

    def init(key: Array, context: InitContext) -> Vars:
        require_maps("ofd", context)
        margins = _margins(context)
        require_stages("ofd", context)
        students, teachers = last_preacts("ofd", context.view_shapes)
        params, stats = {}, {}
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True), 1):
            x = jnp.zeros((1, 1, 1, student.shape[-1]))
            connector = Connector(teacher.shape[-1]).init(fold(key, f"stage{i}"), x)
            params[f"stage{i}"] = {"connector": connector["params"]}
            stats[f"stage{i}"] = {"connector": connector["batch_stats"], "margin": margins[i - 1 - len(teachers)]}
        return Vars(params, stats, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        students, teachers = last_preacts("ofd", view)
        stats, connected, margins = {}, [], []
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True), 1):
            layer, before = Connector(teacher.shape[-1]), vars.stats[f"stage{i}"]
            x, after = run(layer, vars.params[f"stage{i}"]["connector"], before["connector"], student, train=train)
            stats[f"stage{i}"] = {**before, "connector": after}
            connected.append(x)
            margins.append(before["margin"])
        students, teachers = ([masked(view, x) for x in maps] for maps in (connected, teachers))
        return view, {"": losses.ofd(students=students, teachers=teachers, margins=margins)}, {}, stats

    return weigh(Distiller(init, apply, NEEDS), weight)


def margin(scale: Array, bias: Array) -> Array:
    """The mean of the negative values of a channel behind BatchNorm: a Gaussian of mean `bias` and deviation |scale|.

        m = bias - |scale| pdf(z) / cdf(-z),   z = bias / |scale|;   -3 |scale| where cdf(-z) <= 0.001

    Args:
      scale: (C,).
      bias: (C,).

    Returns:
      (C,), <= 0. A scale of 0 gives min(bias, 0), the limit of the first formula.
    """
    scale, bias = upcast(jnp.abs(scale), bias)
    z = jnp.clip(bias / jnp.maximum(scale, 1e-12), -40, 40)  # beyond, cdf is 0 or 1 and pdf 0 as well
    negative = norm.cdf(-z)
    some = negative > 0.001
    mean = bias - scale * norm.pdf(z) / jnp.where(some, negative, 1)
    return jnp.where(some, mean, -3 * scale)


def _margins(context: InitContext) -> list[Array]:
    """The margin of every stage of the first teacher but the stem; zeros while its variables are shapes only."""
    if not context.teachers:
        raise InputError("ofd: context.teachers is empty; margins are computed from the teacher's BatchNorms")
    model, variables = context.teachers[0]
    if not hasattr(model, "bn_before_relu"):
        raise InputError(
            f"ofd: a {type(model).__name__} cannot be the teacher: it has no bn_before_relu, the BatchNorms before the "
            "last ReLU of its stages; ResNets, WRNs and VGGs have"
        )
    norms = [reduce(lambda tree, part: tree[part], p.split("/"), variables.params) for p in model.bn_before_relu]
    return [
        jnp.zeros(bn["scale"].shape) if isinstance(bn["scale"], jax.ShapeDtypeStruct) else margin(**bn) for bn in norms
    ]
