"""RLD, refined logits: the teacher's confidence without its mistakes."""

from kd_jax import losses
from kd_jax.methods.base import require, weigh
from kd_jax.methods.terms import LABELS, criterion, reads, with_raw_teacher
from kd_jax.typing import Distiller, Schedule, Terms, View


def rld(
    *,
    weight: float | Schedule = 1.0,
    alpha: float = 1.0,
    beta: float = 4.0,
    temperature: float | None = None,
    confidence_temperature: float | None = 1.0,
) -> Distiller:
    """Refined-logit distillation of the pair in `match` (kd_jax.losses.rld).

    Which classes the teacher puts below the label, and how sure it is, say its raw logits; a refiner in front (skd)
    changes what is matched among these classes, and cannot change which they are. The published recipe ramps the
    weight over the first 20 epochs (`warmup_epochs=20` in configs).

    Args:
      weight: a number, or a schedule of the step.
      alpha: weight of the confidence part.
      beta: weight of the part about the classes below the label.
      temperature: T > 0 of that part; None takes the one that a refiner has set, or else 4.
      confidence_temperature: a > 0 of the confidence part; None takes the other temperature, as published code does
        by a flag.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Sun, Wang, et al., "Knowledge Distillation with Refined Logits", 2024, arXiv 2408.07703.
    Differs: the paper writes one temperature; the default of 1 for the confidence part is its code's, whose default of
      beta is 8.
    """
    needs, a = reads("rld", temperature) | LABELS, confidence_temperature
    accepted = a is None or 0 < a < float("inf")
    require("rld", confidence_temperature=(a, accepted, "a finite number above 0, or None"))

    def terms(view: View) -> Terms:
        pair = with_raw_teacher(view, temperature)
        how = {"alpha": alpha, "beta": beta, "confidence_temperature": pair["temperature"] if a is None else a}
        return {"": losses.rld(**pair, labels=view.labels, **how)}

    return weigh(criterion(terms, needs), weight)
