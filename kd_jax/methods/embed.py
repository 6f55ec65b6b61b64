"""Embedding distillation: a linear layer takes the student's pooled features to the teacher's."""

import jax.numpy as jnp
from flax import linen as nn

from kd_jax import losses
from kd_jax.layers.basic import linear
from kd_jax.losses.embedding import DISTANCES
from kd_jax.methods.base import require, weigh
from kd_jax.methods.relations import POOLED
from kd_jax.methods.stages import pooled
from kd_jax.typing import Array, Distiller, InitContext, Schedule, Vars, View


def embed(*, weight: float | Schedule = 1.0, distance: str = "cosine") -> Distiller:
    """Embedding distillation (feature regression on the penultimate layer): through a linear projector the student's
    pooled features are to be the teacher's.

        weight distance(W f_S + b, f_T)

    It reads `pooled` of the teacher and no label: any teacher will do that returns it, a `python:` function such as a
    foundation model too, whatever its width. The projector is the method's, has PyTorch's default initialisation and is
    trained together with the student; it is there for equal widths as well. The student's classifier gets no gradient
    from this term: beside it stands `ce`, or `kd` where there are no labels. Nothing is detached here. Of several
    teachers the first is read.

    Args:
      weight: a number, or a schedule of the step.
      distance: "cosine" (1 - the cosine of the two) or "mse" (the mean squared difference).

    Raises:
      InputError: another distance.

    Reference: Navaneet, Koohpayegani, Tejankar, Pirsiavash, "SimReg: Regression as a Simple Yet Effective Tool for
      Self-supervised Knowledge Distillation", 2021, arXiv 2201.05131; Romero, Ballas, Kahou, Chassang, Gatta, Bengio,
      "FitNets: Hints for Thin Deep Nets", 2014, arXiv 1412.6550, of which this is the regression on the last features.
    Differs: the recipe is ours and no paper's. SimReg's projector is a perceptron of several layers and its distance
      that of normalised features, 2 (1 - cosine); the weight is our choice, and no published figure goes with it.
    """
    require("embed", distance=(distance, distance in DISTANCES, " or ".join(DISTANCES)))

    def layer(view: View) -> tuple[nn.Dense, dict[str, Array]]:
        pair = pooled(view)
        return linear(pair["teacher"].shape[-1], pair["student"].shape[-1], name="projector"), pair

    def init(key: Array, context: InitContext) -> Vars:
        projector, pair = layer(context.view_shapes)
        return Vars({"projector": projector.init(key, jnp.zeros((1, pair["student"].shape[-1])))["params"]}, {}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        projector, pair = layer(view)
        pair["student"] = projector.apply({"params": vars.params["projector"]}, pair["student"])
        return view, {"": losses.embed(**pair, distance=distance)}, {}, vars.stats

    return weigh(Distiller(init, apply, POOLED), weight)
