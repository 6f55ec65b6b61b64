"""FT, factor transfer: a paraphraser condenses the teacher's last stage into factors; a translator learns to make them.

    first phase    mean( (decoder(encoder(f)) - f)^2 )                                   trains encoder and decoder
    second phase   mean over H and W of |a(translator(f_S)) - a(encoder(f_T))|^p2        trains the student

a(f) is where factors are active: flat(mean_c f^p1) divided by its L2 norm.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax import losses
from kd_jax.layers.factors import Paraphraser, Stack, encoder
from kd_jax.methods.base import require, run, weigh
from kd_jax.methods.stages import NEEDS, mask_for, masked, require_maps, require_stages
from kd_jax.typing import Array, Distiller, InitContext, InputError, PyTree, Schedule, Vars, View, given

LABEL = "paraphraser"  # of the term whose variables `ft` starts with
ADVICE = f'give init.method="phase:NAME" of a phase with a term `{LABEL}`'


def paraphraser(*, weight: float | Schedule = 1.0, rate: float = 0.5, batch_norm: bool = False) -> Distiller:
    """The first phase of FT: learns factors that describe the last stage of the network in training.

        weight mean( (decoder(encoder(f)) - f)^2 )

    f is the last stage of the network in the seat `student`. As published that network is the teacher, in a phase that
    trains the method alone (trains="method", so that the network itself does not change) and has no teacher of its own.
    Encoder and decoder are kd_jax.layers.factors.Paraphraser; their parameters and BatchNorm statistics are the
    method's. Nothing is detached here. Where a refiner has set `view.spatial_mask`, the difference is multiplied by it.

    `ft` finds them in the later phase under the label "paraphraser", which this term must have.

    Args:
      weight: a number, or a schedule of the step.
      rate: > 0, width of the factors as a multiple of the map's, rounded down.
      batch_norm: whether BatchNorm stands before every activation.

    Raises:
      InputError: a rate out of range; when variables are made, a rate that leaves no factor, or a network without
        stages or with tokens.

    Reference: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      arXiv 1802.04977.
    """
    require("paraphraser", rate=(rate, 0 < rate < math.inf, "a finite number above 0"))

    def layer_for(x: Array) -> Paraphraser:
        return Paraphraser(int(x.shape[-1] * rate), batch_norm)

    def init(key: Array, context: InitContext) -> Vars:
        if not context.view_shapes.student.stages:
            raise InputError("paraphraser: needs a network with stages, the one in training has none")
        require_maps("paraphraser", context, seats=("student",))
        last = context.view_shapes.student.stages[-1]
        layer = layer_for(last)
        if layer.factors < 1:
            raise InputError(f"paraphraser: rate {rate} of the last stage's width {last.shape[-1]} leaves no factor")
        return _layer_vars(layer, key, last)

    def apply(vars: Vars, view: View, key: Array, train: bool):
        last = view.student.stages[-1]
        (_, rebuilt), stats = run(layer_for(last), vars.params, vars.stats, last, train=train)
        return view, {"": losses.fitnet(student=rebuilt, teacher=last, mask=mask_for(view, last))}, {}, stats

    return weigh(Distiller(init, apply), weight)


def ft(*, weight: float | Schedule = 200.0, batch_norm: bool = True, p1: int = 2, p2: int = 1) -> Distiller:
    """FT: the student's last stage, through a translator, is to be active where the teacher's factors are.

        weight mean over H and W of |a(translator(f_S)) - a(encoder(f_T))|^p2,   a(f) = flat(mean_c f^p1) / its L2 norm

    An earlier phase has trained the encoder in a term `paraphraser`. Here it is part of the method's statistics, in
    eval mode, and does not change. The translator is trained together with the student and makes as many factors as the
    encoder; its parameters and BatchNorm statistics are the method's. Nothing is detached here. Of several teachers
    the first is read. Where a refiner has set `view.spatial_mask`, both sides' factors are multiplied by it.

    Args:
      weight: a number, or a schedule of the step.
      batch_norm: whether the translator has BatchNorm before every activation.
      p1: >= 1, power that factors are raised to before the mean over channels.
      p2: >= 1, power of the difference.

    Raises:
      InputError: an argument out of range; when variables are made, no paraphraser in `context.initial_vars`, one for
        maps of another width, or a network without stages or with tokens.

    Reference: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      arXiv 1802.04977.
    Differs: kd_jax.losses.pretraining lists the differences.
    """
    require("ft", **{name: (p, p >= 1, "at least 1") for name, p in (("p1", p1), ("p2", p2))})

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("ft", context, 0)
        require_maps("ft", context)
        student, teacher = context.view_shapes.student.stages[-1], context.view_shapes.teachers[0].stages[-1]
        trained = _trained_encoder(context, teacher)
        translator = _layer_vars(encoder(student.shape[-1], _factors(trained), batch_norm), key, student)
        return Vars({"translator": translator.params}, {"translator": translator.stats, "encoder": trained}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        student, teacher = view.student.stages[-1], view.teachers[0].stages[-1]
        trained = vars.stats["encoder"]
        translator = encoder(student.shape[-1], _factors(trained), batch_norm)
        student, stats = run(translator, vars.params["translator"], vars.stats["translator"], student, train=train)
        frozen = _encoder_like(trained, teacher)
        teacher, _ = run(frozen, trained["params"], trained["batch_stats"], teacher, train=False)
        value = losses.ft(student=masked(view, student), teacher=masked(view, teacher), p1=p1, p2=p2)
        return view, {"": value}, {}, {**vars.stats, "translator": stats}

    return weigh(Distiller(init, apply, NEEDS | {given(LABEL)}), weight)


def _trained_encoder(context: InitContext, teacher: Array) -> PyTree:
    """Variables of the encoder that an earlier phase has trained, refused where it does not fit the teacher's map."""
    if LABEL not in context.initial_vars:
        raise InputError(f"ft: there is no trained paraphraser: {ADVICE}")
    trained = context.initial_vars[LABEL]
    trained = {"params": trained.params.get("encoder", {}), "batch_stats": trained.stats.get("encoder", {})}
    expected = jax.eval_shape(lambda: _layer_vars(_encoder_like(trained, teacher), jax.random.key(0), teacher))
    if _shapes((trained["params"], trained["batch_stats"])) != _shapes(expected[:2]):
        width = teacher.shape[-1]
        raise InputError(f"ft: the given paraphraser is not one of maps of width {width}, the teacher's: {ADVICE}")
    return trained


def _encoder_like(trained: PyTree, teacher: Array) -> Stack:
    """The encoder of the teacher's maps that has such variables."""
    return encoder(teacher.shape[-1], _factors(trained), bool(trained["batch_stats"]))


def _factors(trained: PyTree) -> int:
    """How many factors an encoder makes; 1 for variables of no encoder, whose shapes are then refused."""
    params = trained["params"]
    return params["conv2"]["bias"].size if "conv2" in params else 1


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.shape, tree)


def _layer_vars(layer: nn.Module, key: Array, like: Array) -> Vars:
    """Fresh variables of a layer for maps (B, H, W, C) like this one."""
    variables = layer.init(key, jnp.zeros((1, *like.shape[1:])))
    return Vars(variables["params"], variables.get("batch_stats", {}), {})
