"""SKD: soften the teacher's logits, then let a jointly trained attention block simplify them.

    u = log_softmax(z_T / tau)                   softening
    v = u + bound tanh(delta(u) / bound)         learning simplifier

The student learns from softmax(v) in place of softmax(z_T). delta is an attention block (kd_jax.layers.simplifier). The
student's loss trains the block too: its gradient goes through the target v.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax.layers import simplifier as block
from kd_jax.losses.divergence import finite
from kd_jax.methods.base import everywhere, length_of, require
from kd_jax.methods.match import BOTH
from kd_jax.methods.skd_logs import MONITORS, TEMPERATURE, diagnose, sizes
from kd_jax.typing import Array, Distiller, InitContext, InputError, Need, Vars, View

NEEDS = frozenset({Need.MATCH})
SIMPLIFIERS = (*block.TOKENS, "degree", "none")


def softened(logits: Array, temperature: Array | float) -> Array:
    """u: log-probabilities (B, K) of the teacher's logits, at least float32."""
    return jax.nn.log_softmax(*finite(logits, temperature=temperature))


def annealed(start: float, end: float, progress: Array) -> Array:
    """The temperature (): from `start` to `end`, by the same factor in every part of the run. progress: 0 to 1."""
    return start * (end / start) ** progress


def degree(params, logits: Array, start: float, end: float, progress: Array) -> Array:
    """A temperature (B, 1) for each example, by attention: within a factor that shrinks from start / end to 1."""
    widest = math.log(start / end)
    score = block.pool(params, block.standardize_rows(softened(logits, 1.0)))
    return end * jnp.exp((1 - progress) * widest * jnp.tanh(score / widest))


def skd(
    *,
    temperature: float = 4.0,
    student_temperature: float | None = 1.0,
    anneal_to: float | None = None,
    simplifier: str = "classes",
    width: int | None = None,
    residual: bool = True,
    normalize: bool = True,
    bound: float | None = 0.1,
    rate: float = 0.1,
    anchor: float = 0.0,
) -> Distiller:
    """Student-friendly knowledge distillation: a refiner of `match`, in front of any criterion on logits.

        u = log_softmax(z_T / tau)                   softening; tau is `temperature`, or annealed from it
        v = u + bound tanh(delta(u) / bound)         learning simplifier
        match.teacher = tau v,  match.teacher_temperature = tau,  match.temperature = student_temperature

    A criterion that follows hence compares softmax(v) with softmax(z_S / student_temperature); one with its own
    temperature reads tau v as it reads the teacher's logits. The criterion's gradient reaches the simplifier through
    the target. Nothing is detached here; the teacher's weights are no argument of the gradient. The block's output is 0
    at the start.

    With simplifier="none" and student_temperature=None it is KD at this temperature, bit for bit; with
    simplifier="none" and student_temperature=1 it is TTM with gamma = 1 / temperature.

    Args:
      temperature: > 0, of the teacher; where it is annealed, at the start.
      student_temperature: > 0, of the student; None takes the teacher's. A criterion's factor T^2 is this one's.
      anneal_to: > 0, the teacher's temperature at the end of the phase; None: it stays. It changes by the same factor
        in every step: tau = temperature (anneal_to / temperature)^(step / steps).
      simplifier: "classes" (classes attend to classes, K x K scores an example), "batch" (examples to examples, B x B),
        "none", or "degree": no correction, but a temperature for each example,
        tau_i = anneal_to exp((1 - step / steps) b tanh(a_i / b)), b = ln(temperature / anneal_to), where one learned
        query attends to the classes and makes a_i, 4 at the start.
      width: d of the attention; None: see kd_jax.layers.simplifier.init.
      residual: False makes the block's output the target, in place of a correction of u.
      normalize: standardise rows of u before queries, keys and values ("degree" always does).
      bound: b > 0, the largest correction of a log-probability (before renormalising), hence KL(softened || simplified)
        <= b^2 / 2; None: no limit.
      rate: learning rate of the simplifier as a multiple of the student's, > 0.
      anchor: >= 0, weight of an additional term student_temperature^2 KL(softened || simplified); 0 adds no term.

    Returns:
      A Distiller. Logs (nats) of "classes" and "batch": kl_ut = KL(softened || simplified); kl_ts = KL(simplified ||
      student); kl_us = KL(softened || student); ratio = kl_ts / kl_us (1: the target stands still, 0: it copies the
      student); entropy of the target, entropy_u of the softened teacher, and their entropy_ratio; kept, share of
      examples whose top class is the teacher's; spread, mean KL of the targets to their batch mean (0: one target for
      all); correction, mean size of the correction; at_bound, share of corrections above 0.9 bound. Of an annealed or
      learned temperature: temperature.

    Raises:
      InputError: an argument outside its range; anneal_to without the number of steps in the context of `init`.

    Reference: Yuan, Lang, Quan, "Student-friendly Knowledge Distillation", 2023, arXiv 2305.10893.
      (Other works that call themselves SKD, torchdistill's among them, are different methods.)
    Differs: the paper's equations and code were not available. Its abstract says: a softening by a temperature, then a
      simplifier based on attention, which the distillation loss trains jointly with the student; the form of that loss
      does not change. TTM's (Zheng, Yang 2024) is the teacher that is softened alone, with the student at temperature
      1; student_temperature=None is the other reading, in which the softening is the loss's own temperature. Ours:
      every other formula above, the form of the attention, all default values, `normalize`, `bound` and `rate`. The
      literal reading (simplifier="batch", student_temperature=None, bound=None, normalize=False, rate=1) collapsed onto
      the student in our small experiments. `anneal_to` is ours too, and no part of SKD: Annealing KD (Jafari et al.
      2021) lowers the teacher's temperature before us.
    """
    _check(temperature, student_temperature, anneal_to, simplifier, width, residual, bound, rate, anchor)

    def init(key: Array, context: InitContext) -> Vars:
        sizes = {"num_classes": context.num_classes, "width": width}
        params = {}
        if simplifier == "degree":
            params = block.init_pool(key, **sizes)
        elif simplifier != "none":
            params = block.init(key, **sizes, tokens=simplifier, zero_output=residual)
        return Vars(params, {} if anneal_to is None else length_of("skd", "anneal_to", context), {})

    def temperature_now(vars: Vars, view: View) -> Array | float:
        if anneal_to is None:
            return temperature
        progress = jnp.minimum(view.step / vars.stats["steps"], 1.0)
        if simplifier == "degree":
            return degree(vars.params, view.match.teacher, temperature, anneal_to, progress)
        return annealed(temperature, anneal_to, progress)

    def hand_on(view: View, teacher: Array, tau: Array | float) -> View:
        one = student_temperature is None  # for both sides
        pair = {"temperature": tau if one else student_temperature, "teacher_temperature": None if one else tau}
        return view._replace(match=view.match._replace(teacher=teacher, **pair))

    def soften(vars: Vars, view: View, key: Array, train: bool):
        tau = temperature_now(vars, view)
        logs = {} if anneal_to is None else {"temperature": tau[..., 0] if simplifier == "degree" else tau}
        return hand_on(view, view.match.teacher, tau), {}, logs, vars.stats

    def soften_and_simplify(vars: Vars, view: View, key: Array, train: bool):
        tau = temperature_now(vars, view)
        u = softened(view.match.teacher, tau)
        delta = block.apply(vars.params, block.standardize_rows(u) if normalize else u, tokens=simplifier)
        delta = delta if bound is None else bound * jnp.tanh(delta / bound)
        v = u + delta if residual else delta
        of_student = tau if student_temperature is None else student_temperature
        logs = diagnose(u, jax.nn.log_softmax(v), softened(view.match.student, of_student))
        logs |= sizes(delta, residual, bound) | ({} if anneal_to is None else {"temperature": tau})
        terms = {"anchor": anchor * of_student**2 * logs["kl_ut"]} if anchor else {}
        return hand_on(view, tau * v, tau), terms, logs, vars.stats

    fields = {"monitors": () if anneal_to is None else TEMPERATURE}
    if simplifier != "none":
        fields["lr_multipliers"] = {"": rate}
    if simplifier in ("none", "degree"):  # the logits stay: what has a temperature of its own would see no change
        return everywhere(Distiller(init, soften, NEEDS, refines=frozenset({Need.MATCH_TEMPERATURE}), **fields))
    fields["monitors"] += MONITORS
    fields["refines"] = BOTH
    if simplifier == "batch":
        fields["whole_batch"] = {"": "attends over the whole batch"}
    return everywhere(Distiller(init, soften_and_simplify, NEEDS, **fields))


def _check(temperature, student_temperature, anneal_to, simplifier, width, residual, bound, rate, anchor) -> None:
    """Refuse arguments of `skd` that are out of range, or that do not go together."""
    finite = float("inf")
    above_0, or_none = "a finite number above 0", "a finite number above 0, or None"
    require(
        "skd",
        temperature=(temperature, 0 < temperature < finite, above_0),
        student_temperature=(student_temperature, _is_none_or_above_0(student_temperature), or_none),
        anneal_to=(anneal_to, _is_none_or_above_0(anneal_to), or_none),
        simplifier=(simplifier, simplifier in SIMPLIFIERS, "one of " + ", ".join(SIMPLIFIERS)),
        width=(width, width is None or width > 0, "a number above 0, or None"),
        bound=(bound, _is_none_or_above_0(bound), or_none),
        rate=(rate, 0 < rate < finite, above_0),
        anchor=(anchor, 0 <= anchor < finite, "a finite number, at least 0"),
    )
    if bound is not None and not residual:
        raise InputError("skd: bound limits the correction of a residual; residual=False needs bound=None")
    if simplifier == "degree" and (anneal_to is None or anneal_to >= temperature):
        raise InputError("skd: simplifier='degree' goes from temperature to anneal_to; give an anneal_to below it")
    if simplifier in ("none", "degree") and (anchor or not residual):
        raise InputError(f"skd: simplifier={simplifier!r} makes no target; anchor and residual=False are about one")


def _is_none_or_above_0(x: float | None) -> bool:
    return x is None or 0 < x < float("inf")
