"""OFA-KD, one for all: exits turn the student's stages into logits, where networks of any kind can be compared."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax import losses
from kd_jax.layers.exits import MapExit, TokenExit
from kd_jax.methods.base import fold, require, run, weigh
from kd_jax.methods.stages import as_map, is_tokens, require_stages
from kd_jax.methods.terms import LABELS, comparable, pair_of, reads
from kd_jax.typing import Array, Distiller, InitContext, Schedule, Vars, View


def ofa(
    *,
    weight: float | Schedule = 1.0,
    last_weight: float = 1.0,
    power: float = 1.0,
    temperature: float | None = 1.0,
    all_classes: bool = False,
) -> Distiller:
    """One for all: the student's logits, and those of an exit behind every stage but the stem, learn from the teacher.

        weight (last_weight ofa(student)  +  sum over stages of ofa(exit))

    The loss is kd_jax.losses.ofa; the exits are kd_jax.layers.exits, trained together with the student and dropped
    after. All learn from the one teacher in `match`, as refiners have made it. The loss is a cross-entropy: behind a
    refiner that learns without a bound (skd) it draws the target to one class.

    Args:
      weight: a number, or a schedule of the step.
      last_weight: >= 0, of the student's own logits.
      power: > 0; published, for code that raises all classes: 1 for ResNet18 from Swin-T on CIFAR-100, 1.5 from DeiT-T
        on ImageNet.
      temperature: T > 0; None takes the one that a refiner has set, or else 4.
      all_classes: raise the teacher's probability of every class to `power`, as the published code does.

    Returns:
      A Distiller with the terms "last" and "exit1", "exit2", ..., (B,).

    Raises:
      InputError: an argument outside its range; when variables are made, a student without a stage behind the stem, or
        tokens whose patches cannot be merged by fours.

    Reference: Hao, Guo, Han, Hu, Xu, Wang, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in
      Knowledge Distillation", 2023, arXiv 2310.19444.
    Differs: `all_classes` is the published code's. The width inside an exit's block, and that its class token is kept
      beside merged patches, are our reading.
    """
    needs, finite = reads("ofa", temperature) | LABELS, float("inf")
    require(
        "ofa",
        last_weight=(last_weight, 0 <= last_weight < finite, "a finite number, at least 0"),
        power=(power, 0 < power < finite, "a finite number above 0"),
    )

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("ofa", context, seats=("student",))
        params, stats = {}, {}
        view = context.view_shapes
        widths = [outputs.pooled.shape[-1] for outputs in (view.student, *view.teachers) if outputs.pooled is not None]
        for name, (layer, stage) in _exits(view, max(widths)).items():
            variables = layer.init(fold(key, name), jnp.zeros((1, *stage.shape[1:])))
            params[name], stats[name] = variables["params"], variables.get("batch_stats", {})
        return Vars(params, stats, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        pair, how = pair_of(view, temperature), {"labels": view.labels, "power": power, "all_classes": all_classes}
        terms = {"last": last_weight * losses.ofa(**pair, **how)} if last_weight else {}
        stats = {}
        width = vars.params["exit1"]["fc"]["kernel"].shape[0]
        for name, (layer, stage) in _exits(view, width).items():
            logits, stats[name] = run(layer, vars.params[name], vars.stats[name], stage, train=train)
            terms[name] = losses.ofa(**{**pair, "student": comparable(view, logits)}, **how)
        return view, terms, {}, stats

    return weigh(Distiller(init, apply, needs), weight)


def _exits(view: View, width: int) -> dict[str, tuple[nn.Module, Array]]:
    """name -> exit and the student's stage that it reads. width: of what an exit of maps pools."""
    classes, stages = view.match.student.shape[-1], view.student.stages
    exits = {}
    for i, stage in enumerate(stages[1:], 1):
        later = len(stages) - 1 - i
        if is_tokens(stage):
            grid = as_map(jax.ShapeDtypeStruct(stage.shape, stage.dtype), view.image.shape[1:]).shape[1:3]
            exits[f"exit{i}"] = TokenExit(classes, grid, max(later, 1)), stage
        else:
            exits[f"exit{i}"] = MapExit(classes, width, later), stage
    return exits
