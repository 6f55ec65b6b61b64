"""Criteria on relations between the examples of a batch: SP, RKD, PKT, CC. Their terms are about the batch: ().

Every example is compared with the others: under parallel.scope="device" each device compares only its own examples, in
scope "global" the whole batch is compared. SP and PKT fall about as 1/B with the number B of examples compared; their
published weights are for batches of 64. Of several teachers the first is read.
"""

from functools import partial

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.layers.basic import linear
from kd_jax.methods.base import no_vars, require, weigh
from kd_jax.methods.stages import NEEDS, masked, pooled, require_maps
from kd_jax.methods.terms import criterion
from kd_jax.typing import Array, Distiller, InitContext, Need, Schedule, Terms, Vars, View

POOLED = frozenset({Need.TEACHER_POOLED})


def sp(*, weight: float | Schedule = 3000.0) -> Distiller:
    """Similarity-preserving distillation: the examples' similarities in the last stage are to be the teacher's.

    Nothing is detached here. Where a refiner has set `view.spatial_mask`, both maps are multiplied by it before.

    Under parallel.scope="device" each device compares only its own examples, in scope "global" the whole batch. The
    term falls about as 1/B with the number of examples compared: the published weight is for batches of 64.

    Args:
      weight: a number, or a schedule of the step.

    Raises:
      InputError: a network with tokens, when variables are made.

    Reference: Tung, Mori, "Similarity-Preserving Knowledge Distillation", 2019, arXiv 1907.09682.
    """

    def terms(view: View) -> Terms:
        student, teacher = (masked(view, outputs.stages[-1]) for outputs in (view.student, view.teachers[0]))
        return {"": losses.sp(student=student, teacher=teacher)}

    def init(key: Array, context: InitContext) -> Vars:
        require_maps("sp", context)
        return no_vars(key, context)

    return weigh(criterion(terms, NEEDS, init), weight)


def rkd(
    *,
    weight: float | Schedule = 1.0,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Distiller:
    """Relational knowledge distillation of the pooled features: distances of pairs, angles of triplets.

    Nothing is detached here. The angles take memory for B^3 numbers: see kd_jax.losses.relations. Under
    parallel.scope="device" each device compares only its own examples, in scope "global" the whole batch.

    Args:
      weight: a number, or a schedule of the step.
      distance_weight: >= 0, of the distances; 0 leaves them out.
      angle_weight: >= 0, of the angles; 0 leaves them out.

    Raises:
      InputError: an argument outside its range; a batch of one example, when variables are made.

    Reference: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019, arXiv 1904.05068.
    """
    weights = {"distance_weight": distance_weight, "angle_weight": angle_weight}
    require("rkd", **{n: (w, 0 <= w < float("inf"), "a finite number, at least 0") for n, w in weights.items()})
    return weigh(criterion(lambda view: {"": losses.rkd(**pooled(view), **weights)}, POOLED), weight)


def pkt(*, weight: float | Schedule = 30000.0) -> Distiller:
    """Probabilistic knowledge transfer of the pooled features: the similarities in the batch, as a distribution.

    Nothing is detached here. Under parallel.scope="device" each device compares only its own examples, in scope
    "global" the whole batch. The term falls about as 1/B with the number of examples compared: the published weight is
    for batches of 64.

    Args:
      weight: a number, or a schedule of the step.

    Reference: Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", 2018,
      arXiv 1803.10837.
    """
    return weigh(criterion(lambda view: {"": losses.pkt(**pooled(view))}, POOLED), weight)


def cc(*, weight: float | Schedule = 0.02, dim: int = 128) -> Distiller:
    """Correlation congruence of the pooled features; each network has a linear layer, which embeds its features.

    Both layers are the method's. They have PyTorch's default initialisation and are trained together with the student.
    Nothing is detached here. Under parallel.scope="device" each device compares only its own examples, in scope
    "global" the whole batch.

    Args:
      weight: a number, or a schedule of the step.
      dim: >= 1, width of the embeddings.

    Raises:
      InputError: an argument outside its range; a batch of one example, when variables are made.

    Reference: Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang, "Correlation Congruence for Knowledge Distillation", 2019,
      arXiv 1904.01802.
    Differs: the loss, the embeddings and all values are those of the RepDistiller benchmark; see
      kd_jax.losses.relations.
    """
    require("cc", dim=(dim, dim >= 1, "at least 1"))

    def init(key: Array, context: InitContext) -> Vars:
        widths = {seat: f.shape[-1] for seat, f in pooled(context.view_shapes).items()}
        params = {
            seat: linear(dim, width, name="embedding").init(k, jnp.zeros((1, width)))["params"]
            for (seat, width), k in zip(widths.items(), jax.random.split(key), strict=True)
        }
        vars = Vars(params, {}, {})
        jax.eval_shape(partial(apply, train=True), vars, context.view_shapes, key)  # a batch of one is refused now
        return vars

    def apply(vars: Vars, view: View, key: Array, train: bool):
        embedded = {
            seat: linear(dim, f.shape[-1], name="embedding").apply({"params": vars.params[seat]}, f)
            for seat, f in pooled(view).items()
        }
        return view, {"": losses.cc(**embedded)}, {}, vars.stats

    return weigh(Distiller(init, apply, POOLED), weight)
