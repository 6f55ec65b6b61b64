"""AB, FSP and FT: criteria of which a part is trained in a phase of its own, before the student's."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax import losses
from kd_jax.layers.factors import LinearRegressor, Paraphraser, encoder
from kd_jax.methods.base import fold, no_vars, require, run, weigh
from kd_jax.methods.stages import NEEDS, focus_of, focused, last_preacts, require_stages
from kd_jax.methods.terms import criterion
from kd_jax.typing import Array, Distiller, InitContext, Need, PyTree, Schedule, Terms, Vars, View, given

GIVEN = "paraphraser"  # label of the term whose variables `ft` starts with
WANTED = f'give init.method="phase:NAME" of a phase with a term `{GIVEN}`'


def ab(*, weight: float | Schedule = 1.0, margin: float = 1.0) -> Distiller:
    """AB: before the last ReLU of a stage, the student is to be on the teacher's side of 0, and a margin off it.

        weight 3/1000 sum_i 2^-(L - i) sum d(c(f_S), f_T)^2,   d = max(m - s, 0) where t > 0, else max(s + m, 0)

    c is kd_jax.layers.factors.LinearRegressor, trained along with the student; a stage whose maps have one shape in
    both networks has none. All stages but the stem are compared. Nothing is detached here. Of several teachers the
    first is read. Where a refiner has set `view.spatial_mask`, d is multiplied by it.

    As published it is the only term of a phase before the student's: it trains the student up to its last stage,
    and the next phase starts from there (init.student="phase:NAME") with `ce` alone.

    Args:
      weight: a number, or a schedule of the step.
      margin: m, >= 0.

    Raises:
      ValueError: a margin out of range; a network without pre-activation features (MobileNetV2) or without a stage
        behind the stem, or maps of sizes that the connector cannot match, when variables are made.

    Reference: Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
      Neurons", 2018, arXiv 1811.03233.
    Differs: networks with different numbers of stages are aligned from the output side; the published code refuses
      them.
    """
    require("ab", margin=(margin, 0 <= margin < math.inf, "a finite number, at least 0"))

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("ab", context)
        params, stats = {}, {}
        for i, (student, teacher) in enumerate(zip(*last_preacts("ab", context.view_shapes), strict=True), 1):
            if student.shape != teacher.shape:
                x, layer = jnp.zeros((1, *student.shape[1:])), LinearRegressor(teacher.shape[1:])
                made = layer.init(fold(key, f"stage{i}"), x)
                params[f"stage{i}"], stats[f"stage{i}"] = made["params"], made["batch_stats"]
        return Vars(params, stats, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        students, teachers = last_preacts("ab", view)
        stats, connected = {}, []
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True), 1):
            if (name := f"stage{i}") in vars.params:
                layer = LinearRegressor(teacher.shape[1:])
                student, stats[name] = run(layer, vars.params[name], vars.stats[name], student, train=train)
            connected.append(student)
        masks = [focus_of(view, t) for t in teachers]
        value = losses.ab(students=connected, teachers=teachers, margin=margin, masks=masks)
        return view, {"": value}, {}, stats

    return weigh(Distiller(init, apply, frozenset({Need.STUDENT_PREACTS, Need.TEACHER_PREACTS})), weight)


def fsp(*, weight: float | Schedule = 1.0) -> Distiller:
    """FSP: the channels of a student's stage are to go with those of the next one as the teacher's do.

        weight sum_i mean( (G_i(f_S) - G_i(f_T))^2 ),   G_i = mean over H and W of f_i f_(i+1)^T

    All stages are read, the stem too, each with the next. Both networks must be equally wide. Nothing is detached
    here. Of several teachers the first is read. Where a refiner has set `view.spatial_mask`, both maps are multiplied
    by it.

    As published it is the only term of a phase before the student's: it trains the student up to its last stage,
    and the next phase starts from there (init.student="phase:NAME") with `ce` alone.

    Args:
      weight: a number, or a schedule of the step. The published script has 50, for the later phase, where the term
        does not stand.

    Raises:
      ValueError: stages of other widths, or a network without a stage behind the stem, when variables are made.

    Reference: Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
      Transfer Learning", 2017.
    Differs: networks with different numbers of stages are aligned from the output side; the published code refuses
      them.
    """

    def stages(view: View) -> tuple[list[Array], list[Array]]:
        own, theirs = view.student.stages, view.teachers[0].stages
        last = min(len(own), len(theirs))
        return [*own[len(own) - last :]], [*theirs[len(theirs) - last :]]

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("fsp", context)
        own, theirs = (", ".join(str(f.shape[-1]) for f in maps) for maps in stages(context.view_shapes))
        if own != theirs:
            raise ValueError(f"fsp: stages of equal widths wanted, the student has {own}, the teacher {theirs}")
        return no_vars(key, context)

    def terms(view: View) -> Terms:
        students, teachers = ([focused(view, f) for f in maps] for maps in stages(view))
        return {"": losses.fsp(students=students, teachers=teachers)}

    return weigh(criterion(terms, NEEDS, init), weight)


def paraphraser(*, weight: float | Schedule = 1.0, rate: float = 0.5, batch_norm: bool = False) -> Distiller:
    """The first phase of FT: factors that tell the last stage of the network in training, which stays as it is.

        weight mean( (decoder(encoder(f)) - f)^2 )

    f is the last stage of the network in the seat `student`: as published that is the teacher, in a phase that
    trains the method alone (trains="method") and has no teacher of its own. Encoder and decoder are
    kd_jax.layers.factors.Paraphraser; their parameters and BatchNorm statistics are the method's. Nothing is
    detached here. Where a refiner has set `view.spatial_mask`, the difference is multiplied by it.

    `ft` finds them in the later phase under the label "paraphraser", which this term must have.

    Args:
      weight: a number, or a schedule of the step.
      rate: > 0, width of the factors as a multiple of the map's, rounded down.
      batch_norm: whether BatchNorm stands before every activation.

    Raises:
      ValueError: a rate out of range; a rate that leaves no factor, or a network without stages, when variables are
        made.

    Reference: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      arXiv 1802.04977.
    """
    require("paraphraser", rate=(rate, 0 < rate < math.inf, "a finite number above 0"))

    def layer_for(x: Array) -> Paraphraser:
        return Paraphraser(int(x.shape[-1] * rate), batch_norm)

    def init(key: Array, context: InitContext) -> Vars:
        if not context.view_shapes.student.stages:
            raise ValueError("paraphraser: needs a network with stages, the one in training has none")
        last = context.view_shapes.student.stages[-1]
        layer = layer_for(last)
        if layer.factors < 1:
            raise ValueError(f"paraphraser: rate {rate} of the last stage's width {last.shape[-1]} leaves no factor")
        return _made(layer, key, last)

    def apply(vars: Vars, view: View, key: Array, train: bool):
        last = view.student.stages[-1]
        (_, rebuilt), moved = run(layer_for(last), vars.params, vars.stats, last, train=train)
        return view, {"": losses.fitnet(student=rebuilt, teacher=last, mask=focus_of(view, last))}, {}, moved

    return weigh(Distiller(init, apply), weight)


def ft(*, weight: float | Schedule = 200.0, batch_norm: bool = True, p1: int = 2, p2: int = 1) -> Distiller:
    """FT: the student's last stage, through a translator, is to be active where the teacher's factors are.

        weight mean over H and W of |a(translator(f_S)) - a(encoder(f_T))|^p2,   a(f) = flat(mean_c f^p1) / its L2 norm

    The encoder is that of a term `paraphraser` which an earlier phase has trained; it is kept in the method's
    statistics, in eval mode, and stays as it is. The translator is trained along with the student and makes as many
    factors; its parameters and BatchNorm statistics are the method's. Nothing is detached here. Of several teachers
    the first is read. Where a refiner has set `view.spatial_mask`, both sides' factors are multiplied by it.

    Args:
      weight: a number, or a schedule of the step.
      batch_norm: whether the translator has BatchNorm before every activation.
      p1: >= 1, power that factors are raised to before the mean over channels.
      p2: >= 1, power of the difference.

    Raises:
      ValueError: an argument out of range; no paraphraser in `context.initial_vars`, one of maps of another width, or a
        network without stages, when variables are made.

    Reference: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      arXiv 1802.04977.
    Differs: kd_jax.losses.pretraining says in what.
    """
    require("ft", **{name: (p, p >= 1, "at least 1") for name, p in (("p1", p1), ("p2", p2))})

    def init(key: Array, context: InitContext) -> Vars:
        require_stages("ft", context, 0)
        student, teacher = context.view_shapes.student.stages[-1], context.view_shapes.teachers[0].stages[-1]
        kept, factors = _given(context, teacher)
        own = _made(encoder(student.shape[-1], factors, batch_norm), key, student)
        return Vars({"translator": own.params}, {"translator": own.stats, "encoder": kept}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        student, teacher = view.student.stages[-1], view.teachers[0].stages[-1]
        own, kept = vars.params["translator"], vars.stats["encoder"]
        factors = _factors(kept["params"])
        translator = encoder(student.shape[-1], factors, batch_norm)
        student, moved = run(translator, own, vars.stats["translator"], student, train=train)
        frozen = encoder(teacher.shape[-1], factors, bool(kept["batch_stats"]))
        teacher, _ = run(frozen, kept["params"], kept["batch_stats"], teacher, train=False)
        value = losses.ft(student=focused(view, student), teacher=focused(view, teacher), p1=p1, p2=p2)
        return view, {"": value}, {}, {**vars.stats, "translator": moved}

    return weigh(Distiller(init, apply, NEEDS | {given(GIVEN)}), weight)


def _given(context: InitContext, teacher: Array) -> tuple[PyTree, int]:
    """Variables of the trained encoder, and how many factors it makes; refuse one that is not of these maps."""
    if GIVEN not in context.initial_vars:
        raise ValueError(f"ft: there is no trained paraphraser: {WANTED}")
    given = context.initial_vars[GIVEN]
    kept = {"params": given.params.get("encoder", {}), "batch_stats": given.stats.get("encoder", {})}
    factors, width = _factors(kept["params"]), teacher.shape[-1]
    expected = jax.eval_shape(
        lambda: _made(encoder(width, factors, bool(kept["batch_stats"])), jax.random.key(0), teacher)
    )
    if _shapes((kept["params"], kept["batch_stats"])) != _shapes(expected[:2]):
        raise ValueError(f"ft: the given paraphraser is not one of maps of width {width}, the teacher's: {WANTED}")
    return kept, factors


def _factors(params: PyTree) -> int:
    """How many factors an encoder makes; 1 if it is none, which its shapes then tell."""
    return params["conv2"]["bias"].size if "conv2" in params else 1


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.shape, tree)


def _made(layer: nn.Module, key: Array, like: Array) -> Vars:
    made = layer.init(key, jnp.zeros((1, *like.shape[1:])))
    return Vars(made["params"], made.get("batch_stats", {}), {})
