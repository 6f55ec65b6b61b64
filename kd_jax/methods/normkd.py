"""NormKD: every example's temperature is the spread of its logits, on either side its own."""

from jax.tree_util import Partial

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.methods.base import everywhere, no_vars, require
from kd_jax.methods.match import BOTH, normalized
from kd_jax.typing import Array, Distiller, Need, Vars, View

NEEDS = frozenset({Need.MATCH})


def normkd(*, scale: float = 2.0) -> Distiller:
    """Normalised logits: a refiner of `match`, in front of any criterion that takes a temperature for each example.

        T = scale std(z_T),   S = scale std(z_S)             (B, 1), over the classes, unbiased
        match = z_S T / S, z_T, temperature T

    so that a criterion with the factor T^2, such as kd, becomes T^2 KL(softmax(z_T / T) || softmax(z_S / S)). The
    deviation of the student is differentiated through. T is that of the raw teacher: a refiner in front (skd) changes
    what is matched, and cannot change how much it weighs. A temperature that it has set is replaced. Criteria with a
    temperature of their own read the student's logits in the teacher's spread.

    Args:
      scale: > 0; 2 as published on CIFAR-100, 1 on ImageNet.

    Raises:
      InputError: a scale that is not above 0.

    Reference: Chi et al., "NormKD: Normalized Logits for Knowledge Distillation", 2023, arXiv 2308.00520.
    Differs: 1e-7 is added to a deviation, as LSKD does; a row of equal logits gives NaN in the published code.
    """
    require("normkd", scale=(scale, 0 < scale < float("inf"), "a finite number above 0"))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        raw = losses.deviation(mean_logits(view.teachers))
        return normalized(view, Partial(_spread_to, raw), scale * raw), {}, {}, vars.stats

    return everywhere(Distiller(no_vars, apply, NEEDS, refines=BOTH))


def _spread_to(deviation: Array, logits: Array) -> Array:
    return logits * (deviation / losses.deviation(logits))
