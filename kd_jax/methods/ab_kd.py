"""ABKD: the alpha-beta divergence in place of KD's."""

from kd_jax import losses
from kd_jax.methods.base import require, weigh
from kd_jax.methods.terms import criterion, pair_of, reads
from kd_jax.typing import Distiller, Schedule, Terms, View


def ab_kd(
    *, weight: float | Schedule = 32.0, alpha: float = 0.8, beta: float = 0.3, temperature: float | None = None
) -> Distiller:
    """The alpha-beta divergence of the softened pair in `match`, without T^2 (kd_jax.losses.alpha_beta).

        -1 / (a b) sum_c (p^a q^b - a / (a + b) p^(a + b) - b / (a + b) q^(a + b))

    The defaults are the authors' for resnet56 and resnet20, beside 1.0 of `ce`: 32 stands for 2 T^2 at T = 4. For
    other pairs they search alpha from 0.5 to 1.3 and alpha + beta from 1.0 to 1.3.

    Args:
      weight: a number, or a schedule of the step.
      alpha: >= 0; smaller looks more at the classes where the student is far off.
      beta: >= 0; larger looks more at the classes of which the student is sure. (1, 0) is KD without its T^2.
      temperature: T > 0; None takes the one that a refiner has set, or else 4.

    Raises:
      InputError: a temperature that is not above 0, a negative alpha or beta.

    Reference: Wang et al., "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via
      alpha-beta-Divergence", 2025, arXiv 2505.04560.
    Differs: at alpha or beta 0 the limit, of which the published code is off by a factor; negative powers, which
      overflow where a network is sure, are refused.
    """
    needs, finite = reads("ab_kd", temperature), float("inf")
    accepted = "a finite number, at least 0"
    require("ab_kd", alpha=(alpha, 0 <= alpha < finite, accepted), beta=(beta, 0 <= beta < finite, accepted))

    def terms(view: View) -> Terms:
        return {"": losses.alpha_beta(**pair_of(view, temperature), alpha=alpha, beta=beta)}

    return weigh(criterion(terms, needs), weight)
