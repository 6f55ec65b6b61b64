"""Criteria on feature maps: FitNet, AT, NST and KDSVD. The view's `spatial_mask` says where they look.

Differs: none of the papers has transformers. A network's tokens are read as the map of their patches, the class token
  left out: our reading.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.methods.base import no_vars, require, run, weigh
from kd_jax.methods.stages import NEEDS, focus_of, focused, last_stages, regressed, require_stages
from kd_jax.methods.terms import criterion
from kd_jax.typing import Array, Distiller, InitContext, Schedule, Terms, Vars, View


def fitnet(*, weight: float | Schedule = 100.0, stage: int = 2, depth: int = 1) -> Distiller:
    """FitNet: the student's map of one stage, through a regressor, is to be the teacher's.

        weight mean((M r(f_S) - M f_T)^2)

    r is kd_jax.layers.regressor.Regressor, trained along with the student; its parameters and BatchNorm
    statistics are the method's. Nothing is detached here. Of several teachers the first is read. M is
    `view.spatial_mask` where a refiner has set it, in the stage's size; the mean is over all elements, masked or not.

    Args:
      weight: a number, or a schedule of the step.
      stage: index in `Outputs.stages` of both networks, the stem being 0.
      depth: >= 1, convolutions of the regressor; SoKD has 3.

    Raises:
      ValueError: an argument outside its range; a stage that one of the two has not, or maps of sizes that the
        regressor cannot match, both when variables are made.

    Reference: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", 2015,
      arXiv 1412.6550.
    Differs: the paper trains up to the hint first and distils afterwards; here, as in the published
      re-implementations, everything is trained at once. Where the teacher has tokens, which are of either sign, the
      regressor's last ReLU is left out.
    """
    require("fitnet", stage=(stage, stage >= 0, "at least 0"), depth=(depth, depth >= 1, "at least 1"))

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("fitnet", context, stage)
        layer, student, _ = regressed(context.view_shapes, stage, depth)
        made = layer.init(key, jnp.zeros((1, *student.shape[1:])))
        return Vars({"regressor": made["params"]}, {"regressor": made["batch_stats"]}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        layer, student, teacher = regressed(view, stage, depth)
        student, moved = run(layer, vars.params["regressor"], vars.stats["regressor"], student, train=train)
        value = losses.fitnet(student=student, teacher=teacher, mask=focus_of(view, teacher))
        return view, {"": value}, {}, {"regressor": moved}

    return weigh(Distiller(init, apply, NEEDS), weight)


def at(*, weight: float | Schedule = 1000.0, p: int = 2) -> Distiller:
    """Attention transfer: where the student's stages are active is to be where the teacher's are.

    All stages but the stem are compared. Of several teachers the first is read. Nothing is detached here. Where a
    refiner has set `view.spatial_mask`, both maps are multiplied by it before.

    Args:
      weight: a number, or a schedule of the step.
      p: >= 1, power that a map is raised to before the mean over its channels.

    Raises:
      ValueError: p out of range; a network without a stage behind the stem, when variables are made.

    Reference: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of
      Convolutional Neural Networks via Attention Transfer", 2017, arXiv 1612.03928.
    Differs: networks with different numbers of stages are aligned from the output side; the published code pairs
      them from the input side and drops what is left over.
    """
    require("at", p=(p, p >= 1, "at least 1"))
    return weigh(_on_stages("at", partial(losses.at, p=p)), weight)


def nst(*, weight: float | Schedule = 50.0) -> Distiller:
    """Neuron selectivity transfer: the student's channels are to select the places that the teacher's select.

    All stages but the stem are compared. Of several teachers the first is read. Nothing is detached here. Where a
    refiner has set `view.spatial_mask`, both maps are multiplied by it before.

    Args:
      weight: a number, or a schedule of the step.

    Raises:
      ValueError: a network without a stage behind the stem, when variables are made.

    Reference: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
      arXiv 1707.01219.
    Differs: as `at`, in networks with different numbers of stages.
    """
    return weigh(_on_stages("nst", losses.nst), weight)


def kdsvd(*, weight: float | Schedule = 1.0, k: int = 1) -> Distiller:
    """KDSVD: the student's singular vectors are to change from stage to stage as the teacher's do.

    All stages but the stem are read, each with the one before. Of several teachers the first is read. Nothing is
    detached here. Where a refiner has set `view.spatial_mask`, both maps are multiplied by it before.

    Args:
      weight: a number, or a schedule of the step.
      k: >= 1, vectors of a map.

    Raises:
      ValueError: k out of range, or, when variables are made, larger than the narrowest map is wide; a network with
        fewer than two stages behind the stem.

    Reference: Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", 2018,
      arXiv 1807.06819.
    Differs: as `at`, in networks with different numbers of stages; kd_jax.losses.svd says in what else.
    """
    require("kdsvd", k=(k, k >= 1, "at least 1"))
    return weigh(_on_stages("kdsvd", partial(losses.kdsvd, k=k), stages=2), weight)


def _on_stages(name: str, loss: Callable, stages: int = 1) -> Distiller:
    """A loss of (students, teachers) on the stages behind the stem, of which there must be so many."""

    def init(key: Array, context: InitContext) -> Vars:
        require_stages(name, context, stages)
        return no_vars(key, context)

    def terms(view: View) -> Terms:
        students, teachers = ([focused(view, f) for f in maps] for maps in last_stages(view))
        return {"": loss(students=students, teachers=teachers)}

    return criterion(terms, NEEDS, init)
