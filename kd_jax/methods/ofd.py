"""The overhaul of feature distillation (OFD): maps before their ReLU, and a margin below which nothing is asked."""

from functools import reduce

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from kd_jax import losses
from kd_jax.layers.projector import Connector
from kd_jax.losses.common import upcast
from kd_jax.methods.base import fold, run, weigh
from kd_jax.methods.stages import focused, last_preacts, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Need, Schedule, Vars, View

NEEDS = frozenset({Need.STUDENT_PREACTS, Need.TEACHER_PREACTS})


def ofd(*, weight: float | Schedule = 1e-3) -> Distiller:
    """OFD: the student's maps before their ReLU, through a connector, are to be the teacher's where those count.

        weight sum_i 2^-(L - i) sum d(c(f_S), f_T, m)^2,   d = s - t where t > 0, else max(s - max(t, m), 0)

    c is kd_jax.layers.projector.Connector, trained along with the student. m is `margin` of the teacher's
    BatchNorm before the stage's ReLU, computed once and kept in the method's statistics. All stages but the stem
    are compared, the teacher's maps average-pooled to the student's size. Nothing is detached here. Of several
    teachers the first is read. Where a refiner has set `view.spatial_mask`, c(f_S) and f_T are multiplied by it.

    Args:
      weight: a number, or a schedule of the step.

    Raises:
      ValueError: a teacher whose network does not say which BatchNorms stand before its ReLUs (MobileNetV2, the
        ShuffleNets), a student without pre-activation features, or a network without a stage behind the stem, when
        variables are made.

    Reference: Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019,
      arXiv 1904.01866.
    Differs: where the teacher has more stages than the student, margins are aligned from the output side as the
      maps are; the published code takes the first ones.
    """

    def init(key: Array, context: InitContext) -> Vars:
        margins = _margins(context)
        require_stages("ofd", context)
        students, teachers = last_preacts("ofd", context.view_shapes)
        params, stats = {}, {}
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True), 1):
            x = jnp.zeros((1, 1, 1, student.shape[-1]))
            made = Connector(teacher.shape[-1]).init(fold(key, f"stage{i}"), x)
            params[f"stage{i}"] = {"connector": made["params"]}
            stats[f"stage{i}"] = {"connector": made["batch_stats"], "margin": margins[i - 1 - len(teachers)]}
        return Vars(params, stats, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        students, teachers = last_preacts("ofd", view)
        stats, connected, margins = {}, [], []
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True), 1):
            params, own = vars.params[f"stage{i}"], vars.stats[f"stage{i}"]
            layer = Connector(teacher.shape[-1])
            x, moved = run(layer, params["connector"], own["connector"], student, train=train)
            stats[f"stage{i}"] = {**own, "connector": moved}
            connected.append(x)
            margins.append(own["margin"])
        students, teachers = ([focused(view, x) for x in maps] for maps in (connected, teachers))
        return view, {"": losses.ofd(students=students, teachers=teachers, margins=margins)}, {}, stats

    return weigh(Distiller(init, apply, NEEDS), weight)


def margin(scale: Array, bias: Array) -> Array:
    """Of a channel behind BatchNorm, a Gaussian of mean `bias` and deviation |scale|: the mean of what is below 0.

        m = bias - |scale| pdf(z) / cdf(-z),   z = bias / |scale|;   -3 |scale| where cdf(-z) <= 0.001

    Args:
      scale: (C,).
      bias: (C,).

    Returns:
      (C,), <= 0. A scale of 0 gives min(bias, 0), the limit of the first formula.
    """
    scale, bias = upcast(jnp.abs(scale), bias)
    z = jnp.clip(bias / jnp.maximum(scale, 1e-12), -40, 40)  # further out, cdf is 0 or 1 and pdf 0 all the same
    below = norm.cdf(-z)
    usual = below > 0.001
    mean = bias - scale * norm.pdf(z) / jnp.where(usual, below, 1)
    return jnp.where(usual, mean, -3 * scale)


def _margins(context: InitContext) -> list[Array]:
    """Of every stage of the first teacher but the stem; zeros while its variables are shapes only."""
    if not context.teachers:
        raise ValueError("ofd: context.teachers is empty; margins are computed from the teacher's BatchNorms")
    model, variables = context.teachers[0]
    if not hasattr(model, "bn_before_relu"):
        raise ValueError(
            f"ofd: a {type(model).__name__} cannot be the teacher: it has no bn_before_relu, the BatchNorms before the "
            "last ReLU of its stages; ResNets, WRNs and VGGs have"
        )
    found = [reduce(lambda tree, part: tree[part], p.split("/"), variables.params) for p in model.bn_before_relu]
    return [
        jnp.zeros(bn["scale"].shape) if isinstance(bn["scale"], jax.ShapeDtypeStruct) else margin(**bn) for bn in found
    ]
