"""DeepKD: distillation in two terms, for an optimiser that gives each a momentum, and the first classes first."""

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.methods.base import NO_VARS, length_of, require, weigh
from kd_jax.methods.terms import LABELS, pair_of, reads
from kd_jax.typing import Array, Distiller, InitContext, InputError, Schedule, Vars, View


def deepkd(
    *,
    weight: float | Schedule = 1.0,
    alpha: float = 1.0,
    beta: float | None = None,
    temperature: float | None = None,
    first_classes: float = 0.05,
    full_at: float = 0.6,
) -> Distiller:
    """The pair in `match` compared in two terms: "target", the label against all others, and "rest", the other classes.

        weight (alpha target  +  b rest),   b = beta, or 1 - p_teacher(label)

    The parts are those of kd_jax.losses.decoupled. Without beta their sum is KD where all classes count, with it DKD.
    The optimiser `deepkd` (config.PHASE.optim.name) gives "target" less momentum than everything else; under another
    one the terms are descended as they are.

    In "rest" the classes count to which the raw teacher gives the most: a share that grows from `first_classes` at the
    start to all of them.

    Args:
      weight: a number, or a schedule of the step.
      alpha: weight of "target".
      beta: weight of "rest"; None weighs each example as KD does.
      temperature: T > 0; None takes the one that a refiner has set, or else 4.
      first_classes: in (0, 1], the share of the classes that counts at the start; 1 counts all throughout.
      full_at: in (0, 1], the share of the phase after which all count.

    Returns:
      A Distiller. Log: classes, how many count.

    Raises:
      InputError: an argument outside its range; a growing share without the number of steps in the context of `init`;
        fewer than three classes.

    Reference: Huang et al., "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer", 2025, arXiv
      2505.15133 (as reported; its text was not read by us).
    Differs: the paper's share grows in three phases from 5 % of the classes, how is not known to us: here it grows in a
      straight line. In the published code all classes count always, and the weight 1 - p of examples is averaged over
      the batch before it multiplies.
    """
    needs, finite = reads("deepkd", temperature) | LABELS, float("inf")
    require(
        "deepkd",
        alpha=(alpha, 0 <= alpha < finite, "a finite number, at least 0"),
        beta=(beta, beta is None or 0 <= beta < finite, "a finite number, at least 0, or None"),
        first_classes=(first_classes, 0 < first_classes <= 1, "a share above 0, at most 1"),
        full_at=(full_at, 0 < full_at <= 1, "a share above 0, at most 1"),
    )
    grows = first_classes < 1

    def init(key: Array, context: InitContext) -> Vars:
        if context.num_classes < 3:
            raise InputError(f"deepkd: needs at least 3 classes, the data has {context.num_classes}; use kd")
        return NO_VARS._replace(stats=length_of("deepkd", "first_classes", context) if grows else {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        pair, classes, count = pair_of(view, temperature), view.match.student.shape[-1], None
        if grows:
            grown = view.step / (full_at * vars.stats["steps"])
            count = jnp.ceil(classes * jnp.minimum(first_classes + (1 - first_classes) * grown, 1.0))
        raw = mean_logits(view.teachers)
        target, rest = losses.decoupled(**pair, labels=view.labels, count=count, raw_teacher=raw)
        by_teacher = {"teacher": pair["teacher"], "temperature": pair["temperature"]}
        share = beta if beta is not None else losses.left_for_others(**by_teacher, labels=view.labels)
        logs = {"classes": count} if grows else {}
        return view, {"target": alpha * target, "rest": share * rest}, logs, vars.stats

    return weigh(Distiller(init, apply, needs), weight)
