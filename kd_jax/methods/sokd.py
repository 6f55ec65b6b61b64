"""SoKD: refine the teacher's features for the student, and look where both look."""

import jax.numpy as jnp
from flax import linen as nn

from kd_jax import losses
from kd_jax.layers import augment, policy
from kd_jax.layers.areas import OVERLAPS, AreaHeads, Areas, masks
from kd_jax.methods.base import NO_VARS, fold, require, run, weigh
from kd_jax.methods.stages import NEEDS, as_before, as_map, regressed, require_stages
from kd_jax.typing import Array, Distiller, InitContext, Logs, Monitor, Need, Schedule, Search, Vars, View

MAPS = frozenset({Need.TEACHER_STAGES, Need.TEACHER_PREACTS})


def dafa(
    *,
    stages: str = "",
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

    A batch draws one of 36 pairs of operations and, for each of the two, whether it is applied; the maps go
    through them (kd_jax.layers.augment), before and after their last ReLU alike. Probabilities, magnitudes and the
    weights of the pairs are the policy (kd_jax.layers.policy). For the first `search_epochs` it is searched by
    steps of its own, which look through the next update of the student (kd_jax.engine.bilevel); then it stays, and
    drawing goes on. Whatever feature criterion follows reads the refined maps; pooled features and logits stay.

    Args:
      stages: indices in `Outputs.stages` of the (first) teacher, joined by commas; "" takes all but the stem. They
        must hold those that the host reads; others are refined in vain, at no cost. What a batch draws, it draws for
        all of them.
      search_epochs: 0 leaves the policy as it starts.
      every: steps between two steps of the policy.
      holdout: share of the training examples that, while the search lasts, only judge; 0 judges by the next batch.
      estimator: "relax" (unbiased, with a control variate; the public code's) or "relaxed" (straight-through; its
        bias is told in kd_jax.layers.policy.draw).
      temperature: > 0 of the relaxation.
      outer: whether the judging loss is "plain" or "refined" by the same policy.
      hypergradient: "exact" or "finite" differences.
      rate: learning rate of the policy's Adam.
      start: "published", or "random" (with search_epochs=0: a random policy).
      published: read magnitudes as the public code does (0.5 is no change) instead of from 0 with a random sign.

    Returns:
      A Distiller. Logs, for every operation: use/NAME, the probability that a batch meets it, and
      magnitude/NAME, its mean over the pairs as they are weighted.

    Raises:
      ValueError: an argument outside its range; a stage that the teacher has not.

    Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge
      Distillation", 2024, arXiv 2409.18785.
    Differs: the paper's equations were read in a public working copy of the same family, not in the paper. Ours,
      where that code deviates from what it describes: all 36 pairs, one policy in both levels, a judging loss
      without augmentation on other examples, the true look-ahead and its exact gradient, gradients through the
      affine grids, translation as a fraction of the map. It has no transformers: of a teacher's tokens the map of
      the patches is refined, the class token stays.
    """
    require(
        "dafa",
        stages=(stages, all(i.strip().isdigit() for i in stages.split(",") if stages), "numbers joined by commas"),
        search_epochs=(search_epochs, search_epochs >= 0, "at least 0"),
        every=(every, every >= 1, "at least 1"),
        holdout=(holdout, 0 <= holdout < 1, "at least 0 and below 1"),
        estimator=(estimator, estimator in policy.ESTIMATORS, " or ".join(policy.ESTIMATORS)),
        temperature=(temperature, 0 < temperature < float("inf"), "a finite number above 0"),
        outer=(outer, outer in ("plain", "refined"), "plain or refined"),
        hypergradient=(hypergradient, hypergradient in ("exact", "finite"), "exact or finite"),
        rate=(rate, 0 < rate < float("inf"), "a finite number above 0"),
        start=(start, start in policy.STARTS, " or ".join(policy.STARTS)),
    )
    how = {"estimator": estimator, "temperature": temperature}

    def refined_of(maps) -> list[int]:
        return [int(i) for i in stages.split(",")] if stages else [*range(1, len(maps))]

    def init(key: Array, context: InitContext) -> Vars:
        for i in refined_of(context.view_shapes.teachers[0].stages):
            require_stages("dafa", context, i, seats=("teacher",))
        return NO_VARS._replace(policy=policy.init(key, estimator=estimator, start=start))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        if not vars.policy or not train:  # the plain outer loss gives none
            return view, {}, {}, {}
        drawn = policy.draw(vars.policy, fold(key, "draw"), **how)
        teacher, pair = view.teachers[0], jnp.asarray(augment.PAIRS)[drawn.index]

        def refine(maps):
            maps = list(maps)
            for i in refined_of(maps):
                plain = as_map(maps[i], view.image.shape[1:])
                changed = augment.apply_pair(
                    plain, pair, drawn.on, drawn.magnitudes, fold(key, "operations"), published=published
                )
                maps[i] = as_before(plain + drawn.weight * (changed - plain), maps[i])
            return tuple(maps)

        preacts = None if teacher.preacts is None else refine(teacher.preacts)
        teacher = teacher._replace(stages=refine(teacher.stages), preacts=preacts)
        return view._replace(teachers=(teacher, *view.teachers[1:])), {}, _usage(vars.policy), {}

    def score(own, key: Array, value: Array):
        return policy.score(own, fold(key, "draw"), value, temperature=temperature)

    search = Search(
        search_epochs, every, holdout, outer, hypergradient, rate, score=score if estimator == "relax" else None
    )
    watch = (Monitor("use/*", unit="probability"), Monitor("magnitude/*", unit="share of the largest magnitude"))
    return Distiller(init, apply, NEEDS, monitors=watch, search=search if search_epochs else None, refines=MAPS)


def dam(
    *,
    weight: float | Schedule = 100.0,
    stage: int = 2,
    areas: int = 8,
    channels: int = 100,
    depth: int = 3,
    overlap: str = "clip",
    heat_relu: bool = False,
) -> Distiller:
    """Distinctive area detection: sets `spatial_mask`, the areas that student and teacher are to be compared in.

        weight mean(([heat, size, offset](r(f_S)) - [heat, size, offset](f_T))^2)

    The same three heads look at the teacher's map and at the student's behind a regressor r. Boxes around the
    student's highest peaks become a mask, by which feature criteria multiply both maps.

    Args:
      weight: of the module's own term, a number or a schedule of the step; exactly 0 leaves the module out.
      stage: index in `Outputs.stages` of both.
      areas: how many boxes.
      channels: of the heat map.
      depth: convolutions of the regressor.
      overlap: of boxes in the mask: "clip" to 1 or "sum".
      heat_relu: a ReLU before the heat's sigmoid, as in the public code.

    Returns:
      A Distiller with one term. Logs: share, of the map that is in focus; heat_std, deviation of the student's
      heat over positions; below 0.001 (0.02 is usual at the start) a run warns that the heads have become constant,
      the term's trivial solution, so that peaks and areas are arbitrary.

    Raises:
      ValueError: an argument outside its range; a stage that one network has not.

    Reference: Shen, Huang, Zhu, Fan, Zhang, "Student-Oriented Teacher Knowledge Refinement for Knowledge
      Distillation", 2024, arXiv 2409.18785.
    Differs: read in a public working copy of the same family. Ours: overlaps clipped, no ReLU before the heat's
      sigmoid, and a regressor of the module's own beside the host criterion's. It has no transformers: tokens are
      read as the map of their patches, the class token left out, and where they are the teacher's, the regressor's
      last ReLU is left out too.
    """
    require(
        "dam",
        stage=(stage, stage >= 0, "at least 0"),
        areas=(areas, areas >= 1, "at least 1"),
        channels=(channels, channels >= 1, "at least 1"),
        depth=(depth, depth >= 1, "at least 1"),
        overlap=(overlap, overlap in OVERLAPS, " or ".join(OVERLAPS)),
    )
    heads = AreaHeads(channels, heat_relu)

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("dam", context, stage)
        layer, student, teacher = regressed(context.view_shapes, stage, depth)
        made = layer.init(fold(key, "regressor"), jnp.zeros((1, *student.shape[1:])))
        params = {
            "regressor": made["params"],
            "heads": heads.init(fold(key, "heads"), jnp.zeros((1, *teacher.shape[1:])))["params"],
        }
        return Vars(params, {"regressor": made["batch_stats"]}, {})

    def seen(vars: Vars, view: View, train: bool) -> tuple[Areas, Areas, dict]:
        """What the heads say of student and teacher, and the regressor's statistics moved."""
        layer, student, teacher = regressed(view, stage, depth)
        student, moved = run(layer, vars.params["regressor"], vars.stats["regressor"], student, train=train)
        both = (heads.apply({"params": vars.params["heads"]}, x) for x in (student, teacher))
        return *both, {"regressor": moved}

    def apply(vars: Vars, view: View, key: Array, train: bool):
        student, teacher, stats = seen(vars, view, train)
        focus = masks(*student, k=areas, overlap=overlap)
        logs = {
            "share": jnp.mean(focus > 0, axis=(1, 2, 3)),
            "heat_std": jnp.mean(jnp.std(student.heat, axis=(1, 2)), axis=-1),
        }
        return view._replace(spatial_mask=focus), {"": losses.areas(student=student, teacher=teacher)}, logs, stats

    def maps(vars: Vars, view: View) -> dict[str, Array]:
        student, teacher, _ = seen(vars, view, False)
        return {
            name: masks(*a, k=areas, overlap="sum")[..., 0] for name, a in (("student", student), ("teacher", teacher))
        }

    constant = "the heads say the same of every place (the term's trivial solution): the areas mean nothing"
    watch = (Monitor("share", unit="share of the map"), Monitor("heat_std", 1e-3, constant, "deviation of the heat"))
    return weigh(
        Distiller(init, apply, NEEDS, monitors=watch, visualizations=maps, refines=MAPS | {Need.TEACHER_CAM}), weight
    )


def _usage(own) -> Logs:
    """Of every operation: the probability that a batch meets it, and its mean magnitude."""
    chosen = nn.softmax(own["weight"])[:, None]
    met = chosen * jnp.clip(own["probability"], 0, 1)
    logs = {}
    for i, name in enumerate(augment.OPERATIONS):
        inside = jnp.asarray(augment.PAIRS) == i
        logs[f"use/{name}"] = jnp.sum(met * inside)
        logs[f"magnitude/{name}"] = jnp.sum(chosen * jnp.clip(own["magnitude"], 0, 1) * inside) / jnp.sum(
            chosen * inside
        )
    return logs
