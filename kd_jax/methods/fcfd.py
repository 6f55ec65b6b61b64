"""FCFD, function-consistent features: a map is good if the other network's later layers do with it what they should.

student's stage i -> bridge -> teacher's later stages -> logits
teacher's stage i -> bridge -> student's later stages -> logits
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from kd_jax import losses
from kd_jax.layers.basic import pool
from kd_jax.losses.common import mean_square
from kd_jax.methods.base import NO_VARS, fold, require, run, weigh
from kd_jax.methods.joined import Crossing, Joined, drawn, join
from kd_jax.methods.stages import NEEDS, masked, require_maps, require_stages
from kd_jax.methods.terms import comparable, pair_of, reads
from kd_jax.typing import Array, Distiller, InitContext, InputError, Need, Schedule, Vars, View


def fcfd(
    *,
    weight: float | Schedule = 1.0,
    temperature: float | None = 4.0,
    mixed_weight: float = 1.0,
    map_weight: float = 5.0,
    ramp_epochs: int = 20,
    paths: int = 2,
) -> Distiller:
    """KD, KD of networks that begin as one of the two and go on as the other, and the maps on their way.

        weight ( T^2 KL(z_T || z_S)  +  mixed_weight sum over paths of T^2 KL(z_T || z_path)
                 + e map_weight sum over stages of [ mse(b(f_S), f_T) + sum over paths of mse(f_path, f_T) ] )

    Every step draws `paths` different ones of all that there are: they cross at any stage but the stem and the last
    one, either way, by a bridge b (kd_jax.layers.bridge) that is trained together with the student. Maps f count of
    every stage but the stem, behind the student's bridge or in the teacher's later stages; of the last stage the means
    of a map behind a ReLU count as well. mse is a mean over all elements; e = min(epoch / ramp_epochs, 1), the epoch
    counted from 1. Of several teachers the first one has the stages.

    All learn from the one z_T in `match`, as refiners have made it. f_T is as refiners have made it too, and paths that
    the teacher begins start there; where `view.spatial_mask` is set, maps that are compared are multiplied by it. The
    teacher's later layers are in eval mode and part of the method's statistics: gradients go through them to the
    student, and none moves them. Paths do not move the student's running statistics. Without paths and with map_weight
    0 it is `kd`.

    Args:
      weight: a number, or a schedule of the step.
      temperature: T > 0; None takes the one that a refiner has set, or else 4.
      mixed_weight: >= 0; 0.2 where the student is wrn_16_2, as published.
      map_weight: >= 0; published values by pair, and T, are in configs/pairs.py.
      ramp_epochs: >= 1; 5 on ImageNet.
      paths: >= 0; 2 as published.

    Returns:
      A Distiller with the terms "kl", "mixed" and "maps", (B,) each; what has no weight is left out.

    Raises:
      InputError: an argument outside its range; when variables are made, networks with tokens, with different numbers
        of stages, with too few stages for so many paths or with maps that no bridge joins, or a python: teacher.

    Reference: Liu, Kan, Shan, Chen, "Function-Consistent Feature Distillation", 2023, arXiv 2304.11832.
    Differs: in the published code the teacher's layers normalise by the batch. There the stages of VGGs and ShuffleNets
      end before a ReLU, and the last one of a WRN behind its last BatchNorm; here they are `Outputs.stages`.
    """
    needs, finite = reads("fcfd", temperature), float("inf")
    require(
        "fcfd",
        mixed_weight=(mixed_weight, 0 <= mixed_weight < finite, "a finite number, at least 0"),
        map_weight=(map_weight, 0 <= map_weight < finite, "a finite number, at least 0"),
        ramp_epochs=(ramp_epochs, ramp_epochs >= 1, "at least 1"),
        paths=(paths, paths >= 0, "at least 0"),
    )
    joins = bool(map_weight or (mixed_weight and paths))

    def init(key: Array, context: InitContext) -> Vars:
        return _init(key, context, paths, bool(map_weight)) if joins else NO_VARS

    def apply(vars: Vars, view: View, key: Array, train: bool):
        pair, stats = pair_of(view, temperature), vars.stats
        terms = {"kl": losses.kd(**pair)}
        if not joins:
            return view, terms, {}, stats
        bridged, moved = {}, {}
        for crossing in _crossings(len(view.student.stages), paths, bool(map_weight)):
            layer, x = stats["joined"].bridge(view, crossing)
            params, before = vars.params[crossing.name], stats[crossing.name]
            bridged[crossing], moved[crossing.name] = run(layer, params, before, x, train=train)
        last = len(view.student.stages) - 1
        maps = sum(_apart(view, c.stage, x) for c, x in bridged.items() if c.to_teacher)
        if paths:
            each = [partial(_path, view, stats["joined"], pair, c, x) for c, x in bridged.items() if c.stage < last]
            mixed, on_paths = drawn(fold(key, "paths"), each, paths)
            maps = maps + on_paths
            terms |= {"mixed": mixed_weight * mixed} if mixed_weight else {}
        if map_weight:
            epoch = jnp.floor(view.step / stats["steps_per_epoch"]) + 1
            terms["maps"] = map_weight * jnp.minimum(epoch / ramp_epochs, 1.0) * maps
        return view, terms, {}, {**stats, **moved}

    return weigh(Distiller(init, apply, needs | NEEDS | {Need.FIXED_TEACHER} if joins else needs), weight)


def _init(key: Array, context: InitContext, paths: int, maps: bool) -> Vars:
    require_maps("fcfd", context)
    require_stages("fcfd", context)
    view = context.view_shapes
    count, theirs = len(view.student.stages), len(view.teachers[0].stages)
    if count != theirs:
        raise InputError(f"fcfd: the student has {count} stages, the teacher {theirs}; accepted: as many of each")
    if paths > 2 * (count - 2):
        raise InputError(f"fcfd: paths must be at most {2 * (count - 2)} where there are {count} stages, got {paths}")
    joined = join("fcfd", context)
    params, stats = {}, {"joined": joined, "steps_per_epoch": jnp.float32(context.steps_per_epoch)}
    for crossing in _crossings(count, paths, maps):
        layer, x = joined.bridge(view, crossing)
        variables = layer.init(fold(key, crossing.name), jnp.zeros((1, *x.shape[1:])))
        params[crossing.name], stats[crossing.name] = variables["params"], variables["batch_stats"]
    return Vars(params, stats, {})


def _crossings(count: int, paths: int, maps: bool) -> list[Crossing]:
    """Where there are bridges between networks with so many stages. Behind the last one no path goes on, but maps are
    compared."""
    ways = [Crossing(i, to_teacher) for i in range(1, count - 1) for to_teacher in (True, False) if to_teacher or paths]
    return ways + ([Crossing(count - 1, True)] if maps else [])


def _path(view: View, joined: Joined, pair: dict, crossing: Crossing, x: Array) -> tuple[Array, Array]:
    """Of one path, from behind its bridge: the divergence of its logits, and of its maps in the teacher, (B,) each."""
    later = joined.behind(view, crossing, x)
    divergence = losses.kd(**{**pair, "student": comparable(view, later.logits)})
    if not crossing.to_teacher:
        return divergence, jnp.zeros_like(divergence)
    return divergence, sum(_apart(view, i, map) for i, map in enumerate(later.stages, crossing.stage + 1))


def _apart(view: View, stage: int, x: Array) -> Array:
    """How far a map is from the teacher's at a stage, (B,); of the last stage how far their means are too."""
    x, teacher = (masked(view, each) for each in (x, view.teachers[0].stages[stage]))
    apart = mean_square(x - teacher)
    if stage < len(view.teachers[0].stages) - 1:
        return apart
    return apart + mean_square(pool(nn.relu(x)) - pool(nn.relu(teacher)))
