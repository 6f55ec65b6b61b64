"""Criteria that apply a loss to all stages behind the stem: AT, NST and KDSVD.

Differs: none of the papers has transformers. Tokens are read as the map of their patches, without the class token:
  our reading.
"""

from collections.abc import Callable
from functools import partial

from kd_jax import losses
from kd_jax.methods.base import no_vars, require, weigh
from kd_jax.methods.stages import NEEDS, last_stages, masked, require_stages
from kd_jax.methods.terms import criterion
from kd_jax.typing import Array, Distiller, InitContext, Schedule, Terms, Vars, View


def _on_stages(name: str, loss: Callable, stages: int = 1) -> Distiller:
    """A loss of (students, teachers) on the stages behind the stem; each network needs at least so many."""

    def terms(view: View) -> Terms:
        students, teachers = ([masked(view, f) for f in maps] for maps in last_stages(view))
        return {"": loss(students=students, teachers=teachers)}

    def init(key: Array, context: InitContext) -> Vars:
        require_stages(name, context, stages)
        return no_vars(key, context)

    return criterion(terms, NEEDS, init)


def at(*, weight: float | Schedule = 1000.0, p: int = 2) -> Distiller:
    """Attention transfer: where the student's stages are active is to be where the teacher's are.

    All stages but the stem are compared. Of several teachers the first is read. Nothing is detached here. Where a
    refiner has set `view.spatial_mask`, both maps are multiplied by it before.

    Args:
      weight: a number, or a schedule of the step.
      p: >= 1, power that a map is raised to before the mean over its channels.

    Raises:
      InputError: p out of range; a network without a stage behind the stem, when variables are made.

    Reference: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of
      Convolutional Neural Networks via Attention Transfer", 2017, arXiv 1612.03928.
    Differs: networks with different numbers of stages are aligned from the output side; the published code pairs
      them from the input side and drops the rest.
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
      InputError: a network without a stage behind the stem, when variables are made.

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
      InputError: k out of range; when variables are made, a k larger than the width of the narrowest map, or a network
        with fewer than two stages behind the stem.

    Reference: Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", 2018,
      arXiv 1807.06819.
    Differs: as `at`, in networks with different numbers of stages; kd_jax.losses.svd lists the other differences.
    """
    require("kdsvd", k=(k, k >= 1, "at least 1"))
    return weigh(_on_stages("kdsvd", partial(losses.kdsvd, k=k), stages=2), weight)
