"""Criteria on logits: the task loss and the classic distillation losses, as terms of a chain."""

from collections.abc import Callable

import jax

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.methods.base import identity, no_vars, require, weigh
from kd_jax.typing import Array, Distiller, InitContext, InputError, Need, Schedule, Terms, Vars, View, extra_view

LABELS = frozenset({Need.LABELS})
KD_TEMPERATURE = 4.0  # where neither criterion nor refiner sets one: the classic papers' on CIFAR-100


def criterion(terms: Callable[[View], Terms], needs: frozenset = frozenset(), init=no_vars) -> Distiller:
    """A distiller without statistics that leaves the view alone and yields `terms(view)`.

    It calls `terms` on shapes when variables are made, so that errors (a batch of one, maps that do not fit) come then.
    """

    def checked(key: Array, context: InitContext) -> Vars:
        vars = init(key, context)
        jax.eval_shape(terms, context.view_shapes)
        return vars

    def apply(vars: Vars, view: View, key: Array, train: bool):
        return view, terms(view), {}, vars.stats

    return Distiller(checked, apply, needs)


def pair_of(view: View, temperature: float | None) -> dict[str, Array | float]:
    """The pair in `match` and its temperature, as keywords of a loss: the criterion's own temperature, or else the one
    that a refiner has set, or else 4.

    A loss has one temperature. Where a refiner has set another one for the teacher, the teacher's logits are scaled, so
    that over the student's temperature they are as soft as over their own.
    """
    match = view.match
    pair = {"student": match.student, "teacher": match.teacher}
    if temperature is not None or match.temperature is None:
        return {**pair, "temperature": KD_TEMPERATURE if temperature is None else temperature}
    if match.teacher_temperature is not None:
        pair["teacher"] = match.teacher * (match.temperature / match.teacher_temperature)
    return {**pair, "temperature": match.temperature}


def comparable(view: View, logits: Array) -> Array:
    """Raw logits (..., B, K) as refiners change both sides of `match` alike (lskd, normkd): to compare with it."""
    return logits if view.match.normalize is None else view.match.normalize(logits)


def with_raw_teacher(view: View, temperature: float | None) -> dict[str, Array | float]:
    """`pair_of`, and the teacher's logits without what a refiner of the target (skd) makes of them."""
    return {**pair_of(view, temperature), "raw_teacher": comparable(view, mean_logits(view.teachers))}


def reads(name: str, temperature: float | None) -> frozenset:
    """The needs of a criterion on logits: the pair, and the refiners' temperature unless the criterion has its own."""
    accepted = temperature is None or 0 < temperature < float("inf")
    require(name, temperature=(temperature, accepted, "a finite number above 0, or None"))
    return frozenset({Need.MATCH} if temperature is not None else {Need.MATCH, Need.MATCH_TEMPERATURE})


def targets_of(view: View) -> Array:
    """What the task loss compares with: labels (B,), or of mixed images the shares (B, K) of the classes."""
    return view.labels if view.soft_labels is None else view.soft_labels


def on_two_views(
    terms: Callable[[View], Terms], needs: frozenset, weight: float | Schedule, ce_weight: float
) -> Distiller:
    """Terms about the usual and the strong view of a batch, times `weight`, and beside them the task loss on the strong
    view, the term "ce", times `ce_weight`. A weight of 0 turns all of it off."""

    def task(view: View) -> Terms:
        return {"ce": losses.cross_entropy(student=view.extra_views["strong"].student.logits, labels=view.labels)}

    if weight == 0:
        return identity()
    compared = weigh(criterion(terms, needs | {extra_view("strong")}), weight)
    parts = compared, weigh(criterion(task, LABELS), ce_weight)

    def apply(vars: Vars, view: View, key: Array, train: bool):
        first, second = (part.apply(vars, view, key, train)[1] for part in parts)
        return view, first | second, {}, vars.stats

    return compared._replace(apply=apply, needs=compared.needs | parts[1].needs)


def ce(*, weight: float | Schedule = 1.0, smoothing: float = 0.0) -> Distiller:
    """The task loss: cross-entropy of the student's raw logits with the labels; of mixed images, with their shares.

    Args:
      weight: a number, or a schedule of the step.
      smoothing: in [0, 1), the share of a label that is spread evenly over all classes, the label's own included.

    Raises:
      InputError: a smoothing out of range.
    """
    require("ce", smoothing=(smoothing, 0 <= smoothing < 1, "at least 0 and below 1"))

    def terms(view: View) -> Terms:
        pair = {"student": view.student.logits, "labels": targets_of(view)}
        return {"": losses.cross_entropy(**pair, smoothing=smoothing)}

    return weigh(criterion(terms, LABELS)._replace(task_terms=frozenset({""})), weight)


def kd(*, weight: float | Schedule = 1.0, temperature: float | None = None) -> Distiller:
    """Knowledge distillation: T^2 KL(teacher || student) of the softened pair in `match`.

    Args:
      weight: a number, or a schedule of the step; 0.9 beside 0.1 of `ce` in the CIFAR-100 recipe.
      temperature: T > 0; None takes the one that a refiner has set, or else 4.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015,
      arXiv 1503.02531.
    """
    needs = reads("kd", temperature)

    def terms(view: View) -> Terms:
        return {"": losses.kd(**pair_of(view, temperature))}

    return weigh(criterion(terms, needs), weight)


def dkd(
    *,
    weight: float | Schedule = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float | None = None,
) -> Distiller:
    """Decoupled knowledge distillation of the pair in `match`.

    The published recipe ramps the weight over the first 20 epochs (`base.ramp`;
    `warmup_epochs=20` in configs) and chooses beta by pair (configs/pairs.py).

    Args:
      weight: a number, or a schedule of the step.
      alpha: weight of the target-class part.
      beta: weight of the other classes' part.
      temperature: T > 0; None takes the one that a refiner has set, or else 4.

    Raises:
      InputError: a temperature that is not above 0; fewer than three classes.

    Reference: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022,
      arXiv 2203.08679.
    """
    needs = reads("dkd", temperature) | LABELS

    def init(key: Array, context: InitContext) -> Vars:
        if context.num_classes < 3:
            raise InputError(f"dkd: needs at least 3 classes, the data has {context.num_classes}; use kd")
        return no_vars(key, context)

    def terms(view: View) -> Terms:
        return {"": losses.dkd(**pair_of(view, temperature), labels=view.labels, alpha=alpha, beta=beta)}

    return weigh(criterion(terms, needs, init), weight)


def dist(
    *,
    weight: float | Schedule = 1.0,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float | None = None,
) -> Distiller:
    """DIST: the probabilities of the pair in `match` are to correlate, over classes and over the batch.

    Its term is about the batch: (). The defaults are the authors' for CIFAR-100, beside 1.0 of `ce`; for ImageNet they
    have T = 1.

    Args:
      weight: a number, or a schedule of the step.
      beta: weight of the correlation over an example's classes.
      gamma: weight of the correlation over a class's examples.
      temperature: T > 0; None takes the one that a refiner has set, or else 4.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", 2022,
      arXiv 2205.10536.
    Differs: as in the published code (see kd_jax.losses.logits), T^2 multiplies both parts.
    """
    needs = reads("dist", temperature)

    def terms(view: View) -> Terms:
        return {"": losses.dist(**pair_of(view, temperature), beta=beta, gamma=gamma)}

    return weigh(criterion(terms, needs), weight)
