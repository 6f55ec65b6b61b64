"""DAFA, SoKD's differentiable automatic feature augmentation: refine the teacher's features for the student.

    f_T  <-  op_j(op_i(f_T)),   (i, j) ~ softmax(weight),   each applied with its probability, at its magnitude

A batch draws one of 36 pairs of operations and, for each of the two, whether it is applied. Probabilities, magnitudes
and the weights of the pairs are the policy. It is searched while the student trains (kd_jax.engine.bilevel).
"""

import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers import augment, policy
from kd_jax.methods.base import NO_VARS, fold, require
from kd_jax.methods.stages import NEEDS, as_before, as_map, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Logs, Monitor, Need, Search, Vars, View


def augmented(maps: tuple[Array, ...], drawn: policy.Draw, key: Array, image: tuple, *, stages, published) -> tuple:
    """The teacher's stages, those with an index in `stages` changed by the pair of operations that the batch drew.

    All stages share the draw and the key. The class token of tokens stays.
    """
    maps, pair = list(maps), jnp.asarray(augment.PAIRS)[drawn.index]
    for i in stages:
        plain = as_map(maps[i], image)
        changed = augment.apply_pair(plain, pair, drawn.on, drawn.magnitudes, key, published=published)
        maps[i] = as_before(plain + drawn.weight * (changed - plain), maps[i])
    return tuple(maps)


def dafa(
    *,
    stages: tuple[int, ...] = (),
    search_epochs: int = 20,
    every: int = 1,
    holdout: float = 0.0,
    estimator: str = "relax",
    temperature: float = 0.5,
    outer: str = "plain",
    hypergradient: str = "exact",
    rate: float = 3e-4,
    start: str = "published",
    published: bool = False,
) -> Distiller:
    """Differentiable automatic feature augmentation: a refiner of the teacher's stages.

        f_T  <-  op_j(op_i(f_T)),   (i, j) ~ softmax(weight),   each applied with its probability, at its magnitude

    A batch draws one of 36 pairs of operations and, for each of the two, whether it is applied. The maps go through
    them (kd_jax.layers.augment), in the same way before and after their last ReLU. Probabilities, magnitudes and the
    weights of the pairs are the policy (kd_jax.layers.policy). For the first `search_epochs` the policy is searched
    by separate steps, which look through the next update of the student (kd_jax.engine.bilevel). After that the policy
    stays the same; batches still draw from it. Feature criteria that follow read the refined maps. Pooled features and
    logits do not change.

    Args:
      stages: indices in `Outputs.stages` of the (first) teacher, each at least 0; () takes all but the stem. They must
        contain the stages that the following criterion reads; refining others has no effect and no cost. All stages
        share what a batch draws.
      search_epochs: 0 leaves the policy as it starts.
      every: steps between two steps of the policy.
      holdout: share of the training examples that only the outer loss reads while the search lasts; 0 computes the
        outer loss on the next batch.
      estimator: "relax" (unbiased, with a control variate; the public code's) or "relaxed" (straight-through;
        kd_jax.layers.policy.draw describes its bias).
      temperature: > 0 of the relaxation.
      outer: the outer loss: "plain", without a policy in it; "refined", by the same policy; or "consistency", by the
        same policy and without the task's terms: how far the student, through the criterion's own adapter, is from the
        refined teacher.
      hypergradient: "exact" or "finite" differences.
      rate: learning rate of the policy's Adam.
      start: "published": probabilities 0.5, all pairs alike, and what public code's magnitude 0.5 does: shears,
        translations and rotations start as no change. Or "random" (with search_epochs=0: a random policy).
      published: read magnitudes as the public code does (0.5 is no change) instead of from 0 with a random sign.

    Returns:
      A Distiller. Logs, for every operation: use/NAME, the probability that a batch meets it, and
      magnitude/NAME, its mean over the pairs as they are weighted.

    Raises:
      InputError: an argument outside its range; a stage that the teacher does not have.

    Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge
      Distillation", 2024, arXiv 2409.18785.
    Differs: the paper's equations were read in a public working copy of the same family, not in the paper. Ours,
      where that code deviates from what it describes: all 36 pairs, one policy in both levels, an outer loss
      without augmentation on other examples, the true look-ahead and its exact gradient, gradients through the
      affine grids, translation as a fraction of the map. outer="consistency" is what a summary of the paper gives as
      its outer objective, half the squared difference of refined teacher map and student map; the paper itself was not
      read, and that the student is the one after the look-ahead is our reading. The paper has no transformers: of a
      teacher's tokens the map of the patches is refined, the class token stays.
    """
    _check(stages, search_epochs, every, holdout, estimator, temperature, outer, hypergradient, rate, start)

    def init(key: Array, context: InitContext) -> Vars:
        for i in stages:
            require_stages("dafa", context, i, seats=("teacher",))
        magnitude = augment.first_magnitudes(published=published)
        return NO_VARS._replace(policy=policy.init(key, estimator=estimator, start=start, magnitude=magnitude))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        if not vars.policy or not train:  # the plain outer loss gives no policy
            return view, {}, {}, {}
        drawn = policy.draw(vars.policy, fold(key, "draw"), estimator=estimator, temperature=temperature)
        teacher, image, changed = view.teachers[0], view.image.shape[1:], {}
        for name in ("stages", "preacts"):
            if (maps := getattr(teacher, name)) is not None:
                options = {"stages": stages or range(1, len(maps)), "published": published}
                changed[name] = augmented(maps, drawn, fold(key, "operations"), image, **options)
        teachers = (teacher._replace(**changed), *view.teachers[1:])
        return view._replace(teachers=teachers), {}, usage(vars.policy), {}

    def score(values, key: Array, value: Array):
        return policy.score(values, fold(key, "draw"), value, temperature=temperature)

    search = Search(
        search_epochs, every, holdout, outer, hypergradient, rate, score=score if estimator == "relax" else None
    )
    return Distiller(init, apply, NEEDS, monitors=MONITORS, search=search if search_epochs else None, refines=REFINED)


OUTER = ("plain", "refined", "consistency")
REFINED = frozenset({Need.TEACHER_STAGES, Need.TEACHER_PREACTS})
MONITORS = (Monitor("use/*", unit="probability"), Monitor("magnitude/*", unit="share of the largest magnitude"))


def usage(values) -> Logs:
    """Of a policy, for every operation: the probability that a batch meets it, and its mean magnitude."""
    chosen = nn.softmax(values["weight"])[:, None]
    applied = chosen * jnp.clip(values["probability"], 0, 1)
    logs = {}
    for i, name in enumerate(augment.OPERATIONS):
        inside = jnp.asarray(augment.PAIRS) == i
        logs[f"use/{name}"] = jnp.sum(applied * inside)
        magnitude = jnp.sum(chosen * jnp.clip(values["magnitude"], 0, 1) * inside)
        logs[f"magnitude/{name}"] = magnitude / jnp.sum(chosen * inside)
    return logs


def _check(stages, search_epochs, every, holdout, estimator, temperature, outer, hypergradient, rate, start) -> None:
    """Refuse arguments of `dafa` that are out of range."""
    finite = float("inf")
    require(
        "dafa",
        stages=(stages, all(isinstance(i, int) and i >= 0 for i in stages), "whole numbers, at least 0"),
        search_epochs=(search_epochs, search_epochs >= 0, "at least 0"),
        every=(every, every >= 1, "at least 1"),
        holdout=(holdout, 0 <= holdout < 1, "at least 0 and below 1"),
        estimator=(estimator, estimator in policy.ESTIMATORS, " or ".join(policy.ESTIMATORS)),
        temperature=(temperature, 0 < temperature < finite, "a finite number above 0"),
        outer=(outer, outer in OUTER, f"one of {', '.join(OUTER)}"),
        hypergradient=(hypergradient, hypergradient in ("exact", "finite"), "exact or finite"),
        rate=(rate, 0 < rate < finite, "a finite number above 0"),
        start=(start, start in policy.STARTS, " or ".join(policy.STARTS)),
    )
