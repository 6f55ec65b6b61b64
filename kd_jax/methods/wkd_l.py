"""WKD-L: to predict a class that is like the teacher's costs little; a loss that knows which classes are alike."""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.methods.base import length_of, require, weigh
from kd_jax.methods.terms import reads, with_raw_teacher
from kd_jax.models.graft import head_of
from kd_jax.typing import Array, Distiller, InitContext, InputError, Need, Schedule, Vars, View

RELATIONS = ("cka", "classifier")


def wkd_l(
    *,
    weight: float | Schedule = 1.0,
    gamma: float = 600.0,
    temperature: float | None = 8.0,
    relation: str = "cka",
    sharpness: float = 1.0,
    decay_from: float = 0.625,
    iterations: int = 10,
) -> Distiller:
    """The label by the teacher's probability of it, the other classes of the pair in `match` by what it costs to carry
    the student's probability over to the teacher's (kd_jax.losses.wkd_l).

        weight (-p_label log softmax(z_S)_label + g gamma transport)

    p_label is that of the raw teacher. What it costs to carry probability from one class to another comes from the
    teacher too: 1 - exp(-sharpness distance), the distance being 1 - CKA of its last maps of the training images of the
    two classes, or the cosine distance of their rows of its classifier. These costs are computed once, are part of the
    method's statistics, and no refiner changes them. Of several teachers the first gives the costs, the mean of all
    p_label. g is 1 at first and falls along a cosine to 0 at the end of the phase. Published settings by pair are in
    configs/pairs.py; the defaults are for resnet32x4 and resnet8x4.

    Args:
      weight: a number, or a schedule of the step.
      gamma: >= 0, weight of the transport.
      temperature: T > 0 of the transport; None takes the one that a refiner has set, or else 4.
      relation: "cka", for which a pass over the training images comes before the first step, or "classifier".
      sharpness: > 0, kappa of the paper; 2 for ResNet50 and MobileNetV1 on ImageNet.
      decay_from: in [0, 1], the share of the phase after which g falls: 150 of 240 epochs on CIFAR-100, 0 on ImageNet;
        with 1 it stays.
      iterations: >= 1, of the plan.

    Raises:
      InputError: an argument outside its range; when variables are made, a teacher without stages ("cka") or without
        one linear classifier ("classifier"), or a context that does not say `class_cka` or the number of steps.

    Reference: Lv, Yang, Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", 2024,
      arXiv 2412.08139.
    Differs: "classifier" is the published code's. On ImageNet that code takes CKA of the logits in place of maps. There
      g falls once an epoch, here with every step.
    """
    needs, finite = reads("wkd_l", temperature), float("inf")
    require(
        "wkd_l",
        gamma=(gamma, 0 <= gamma < finite, "a finite number, at least 0"),
        relation=(relation, relation in RELATIONS, " or ".join(RELATIONS)),
        sharpness=(sharpness, 0 < sharpness < finite, "a finite number above 0"),
        decay_from=(decay_from, 0 <= decay_from <= 1, "from 0 to 1"),
        iterations=(iterations, iterations >= 1, "at least 1"),
    )

    def init(key: Array, context: InitContext) -> Vars:
        length = length_of("wkd_l", "decay_from", context) if decay_from < 1 else {}
        distances = _by_cka(context) if relation == "cka" else _by_classifier(context)
        return Vars({}, {"costs": losses.class_costs(distances, sharpness), **length}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        pair = {**with_raw_teacher(view, temperature), "labels": view.labels}
        g = _fallen(view.step, vars.stats["steps"], decay_from) if decay_from < 1 else 1.0
        value = losses.wkd_l(**pair, costs=vars.stats["costs"], gamma=g * gamma, iterations=iterations)
        return view, {"": value}, {}, vars.stats

    needs |= {Need.FIXED_TEACHER, Need.LABELS} | ({Need.CLASS_CKA} if relation == "cka" else set())
    return weigh(Distiller(init, apply, needs), weight)


def _fallen(step: Array, steps: Array, start: float) -> Array:
    """1 until `start`, a share of the steps; then along half a cosine to 0 at the end."""
    done = jnp.clip((step / steps - start) / (1 - start), 0.0, 1.0)
    return (1 + jnp.cos(jnp.pi * done)) / 2


def _by_cka(context: InitContext) -> Array:
    """(K, K) distances; zeros while the teacher's variables are shapes only."""
    if not context.view_shapes.teachers[0].stages:
        raise InputError("wkd_l: relation cka needs feature maps, which the teacher has not; accepted: classifier")
    if context.class_cka is not None:
        return 1 - context.class_cka
    if not (context.teachers and _are_shapes(context.teachers[0][1])):
        raise InputError("wkd_l: relation cka: context.class_cka is None; give losses.class_cka of the teacher's maps")
    return jnp.zeros((context.num_classes,) * 2)


def _by_classifier(context: InitContext) -> Array:
    """(K, K) distances; zeros while the teacher's variables are shapes only."""
    if not context.teachers:
        raise InputError("wkd_l: context.teachers is empty; the costs are computed from the teacher's classifier")
    try:
        kernel = head_of(context.teachers[0][1])["kernel"]
    except InputError as e:
        raise InputError(f"wkd_l: relation classifier: {e}") from e
    return jnp.zeros((context.num_classes,) * 2) if _are_shapes(kernel) else losses.cosine_distances(kernel.T)


def _are_shapes(tree) -> bool:
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))
