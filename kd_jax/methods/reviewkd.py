"""ReviewKD, knowledge review: a stage of the student and all deeper ones learn one stage of the teacher.

    y_L, x_L = fuse_L(pooled_S);   y_i, x_i = fuse_i(f_S^i, x_{i+1})
    hcl((y_1 .. y_L), (f_T^1 .. f_T^{L-1}, pooled_T))

The student's stages are fused from the deepest up.
"""

from functools import partial

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.layers.fusion import Fusion
from kd_jax.methods.base import fold, require, run, weigh
from kd_jax.methods.stages import last_preacts, masked, require_maps, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Need, Schedule, Vars, View


def reviewkd(*, weight: float | Schedule = 1.0, max_width: int = 512, preact: bool = False) -> Distiller:
    """ReviewKD: the student's stages, fused from the deepest up, are to be the teacher's stages before their ReLU.

        y_L, x_L = fuse_L(pooled_S);   y_i, x_i = fuse_i(f_S^i, x_{i+1})
        weight hcl((y_1 .. y_L), (f_T^1 .. f_T^{L-1}, pooled_T))

    fuse is kd_jax.layers.fusion.Fusion. Its result y has the teacher's shape, x the width min(max_width, the student's
    pooled width). hcl is kd_jax.losses.hints.hcl. The layers are trained together with the student; their parameters
    and BatchNorm statistics are the method's. All stages but the stem are read, and the pooled features as maps of one
    cell. Sizes and widths are read from the networks. Nothing is detached here. Of several teachers the first is
    read. Where a refiner has set `view.spatial_mask`, y_i and f_T^i are multiplied by it; the pooled features have no
    areas and are compared whole.

    The published recipe ramps the weight over the first 20 epochs (`base.ramp`); its size depends on the pair.

    Args:
      weight: a number, or a schedule of the step.
      max_width: >= 1, the largest width of x.
      preact: whether the student's maps are read before their ReLU too, as on ImageNet.

    Raises:
      InputError: max_width out of range; when variables are made, a network without pre-activation features that are
        needed, without a stage behind the stem, or with tokens.

    Reference: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", 2021, arXiv 2104.09044.
    Differs: the published code has sizes and widths written by hand for every pair, and always 512 for max_width.
    """
    require("reviewkd", max_width=(max_width, max_width >= 1, "at least 1"))
    maps = partial(_maps, "preacts" if preact else "stages")
    needs = {Need.TEACHER_PREACTS, Need.TEACHER_POOLED, *([Need.STUDENT_PREACTS] if preact else [])}

    def layers(students: list, teachers: list):
        """(name, Fusion), the deepest first."""
        names = ["pooled", *(f"stage{i}" for i in range(len(students) - 1, 0, -1))]
        mid = min(max_width, students[0].shape[-1])
        return [(name, Fusion(t.shape[1:], mid)) for name, t in zip(names, teachers, strict=True)]

    def apply(vars: Vars, view: View, key: Array, train: bool):
        students, teachers = maps(view)
        fused, stats, deeper = [], {}, None
        for (name, layer), x in zip(layers(students, teachers), students, strict=True):
            (y, deeper), stats[name] = run(layer, vars.params[name], vars.stats[name], x, deeper, train=train)
            fused.append(y)
        fused, teachers = ([x, *(masked(view, f) for f in stages)] for x, *stages in (fused, teachers))
        return view, {"": losses.hcl(students=fused, teachers=teachers)}, {}, stats

    def init(key: Array, context: InitContext) -> Vars:
        require_maps("reviewkd", context)
        require_stages("reviewkd", context)
        students, teachers = jax.eval_shape(maps, context.view_shapes)
        params, stats, deeper = {}, {}, None
        for (name, layer), x in zip(layers(students, teachers), students, strict=True):
            fusion = layer.init(fold(key, name), jnp.zeros((1, *x.shape[1:])), deeper)
            params[name], stats[name] = fusion["params"], fusion["batch_stats"]
            deeper = jnp.zeros((1, *layer.shape[:2], layer.mid))
        return Vars(params, stats, {})

    return weigh(Distiller(init, apply, frozenset(needs)), weight)


def _maps(field: str, view: View) -> tuple[list[Array], list[Array]]:
    """The maps of student and teacher, the deepest first: the pooled features as maps of one cell, then the stages.

    field: of the student's Outputs, "stages" or "preacts".
    """
    networks = zip((view.student, view.teachers[0]), last_preacts("reviewkd", view, field), strict=True)
    return tuple([network.pooled[:, None, None], *reversed(stages)] for network, stages in networks)
