"""SKD: soften the teacher's logits, then let a jointly trained attention block simplify them.

    u = log_softmax(z_T / temperature)                  softening
    v = u + bound tanh(delta(u) / bound)                learning simplifier

The student learns from softmax(v) in place of softmax(u). delta is the attention block of kd_jax.layers.simplifier. The
student's loss trains the block too: its gradient goes through the target v.
"""

import jax
import jax.numpy as jnp

from kd_jax.layers import simplifier
from kd_jax.losses.divergence import finite, kl
from kd_jax.methods.base import NO_VARS, everywhere, no_vars, require
from kd_jax.typing import Array, Distiller, InitContext, InputError, Logs, Mean, Monitor, Need, PyTree, Vars, View

NEEDS = frozenset({Need.MATCH})


def softened(logits: Array, temperature: float) -> Array:
    """u: log-probabilities (B, K) of the teacher's logits, at least float32."""
    return jax.nn.log_softmax(*finite(logits, temperature=temperature))


def correction(
    params: PyTree, u: Array, *, tokens: str, normalize: bool, bound: float | None, reach: float = 1.0
) -> Array:
    """v - u, (B, K), by attention. `reach` times a correction has at most the size `bound`; None: no limit."""
    rows = simplifier.standardize_rows(u) if normalize else u
    delta = simplifier.apply(params, rows, tokens=tokens)
    return delta if bound is None else bound / reach * jnp.tanh(delta * reach / bound)


def skd(
    *,
    temperature: float = 4.0,
    soften: bool = True,
    attention: bool = True,
    tokens: str = "batch",
    width: int | None = None,
    residual: bool = True,
    rescale: bool = True,
    normalize: bool = True,
    bound: float | None = 0.1,
    rate: float = 0.1,
    anchor: float = 0.0,
) -> Distiller:
    """Student-friendly knowledge distillation: a refiner of `match.teacher`.

        u = log_softmax(z_T / temperature)                  softening
        v = u + bound tanh(delta(u) / bound)                learning simplifier
        match.teacher, match.temperature = temperature v, temperature

    Any criterion on logits that follows hence compares softmax(v) with softmax(z_S / temperature). The gradient of
    that criterion reaches the simplifier's parameters through the target. Nothing is detached here; the teacher's
    weights are no argument of the gradient. delta is the attention block of kd_jax.layers.simplifier. Its output
    is 0 at the start.

    Args:
      temperature: > 0. The distillation temperature and the scale of the simplifier's input.
      soften: False gives the simplifier log_softmax(z_T); the temperature then acts in the loss only.
      attention: False leaves the simplifier out: with `rescale`, exactly KD at this temperature.
      tokens: "batch" (examples attend to examples) or "classes" (classes to classes).
      width: d of the attention; None: see kd_jax.layers.simplifier.init.
      residual: False makes the block's output the target, in place of a correction of u.
      rescale: False makes v itself the target and sets no temperature: the criterion's own T acts too.
      normalize: standardise rows of u before queries, keys and values.
      bound: b > 0, the largest correction of a log-probability (before renormalising) where the two sides are
        compared, hence KL(softened || simplified) <= b^2 / 2; None: no limit.
      rate: learning rate of the simplifier as a multiple of the student's, > 0.
      anchor: >= 0, weight of an additional term temperature^2 KL(softened || simplified); 0 adds no term.

    Returns:
      A Distiller. Logs (nats): kl_ut = KL(softened || simplified); kl_ts = KL(simplified || student);
      kl_us = KL(softened || student); ratio = kl_ts / kl_us (1: the target stands still, 0: it copies the student);
      entropy of the target, entropy_u of the softened teacher, and their entropy_ratio; kept, share of examples whose
      top class is the teacher's; spread, mean KL of the targets to their batch mean (0: one target for all);
      correction, mean size of the correction; at_bound, share of corrections above 0.9 bound.

    Raises:
      InputError: an argument outside its range.

    Reference: Yuan, Lang, Quan, "Student-friendly Knowledge Distillation", 2023, arXiv 2305.10893.
      (Other works that call themselves SKD, torchdistill's among them, are different methods.)
    Differs: the paper's equations and code were not available. Its abstract says: softening, then an attention-based
      simplifier, which the distillation loss trains jointly with the student; the form of that loss does not change.
      Ours: every formula above, the form of the attention, all default values, and `normalize`, `bound` and `rate`.
      Without these three (bound=None, normalize=False, rate=1: the literal reading) the target collapsed onto the
      student in our small experiments; with them, SKD gave the same results as KD there.
    """
    _check(temperature, tokens, width, residual, bound, rate, anchor)
    scale = temperature if soften else 1.0
    reach = scale / temperature if rescale else 1.0  # a correction of u times this is what the criterion compares
    block = {"tokens": tokens, "normalize": normalize, "bound": bound, "reach": reach}

    def refine(view: View, v: Array) -> View:
        target = {"teacher": scale * v, "temperature": temperature} if rescale else {"teacher": v}
        return view._replace(match=view.match._replace(**target))

    def init(key: Array, context: InitContext) -> Vars:
        sizes = {"num_classes": context.num_classes, "tokens": tokens, "width": width}
        return NO_VARS._replace(params=simplifier.init(key, **sizes, zero_output=residual))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        u = softened(view.match.teacher, scale)
        delta = correction(vars.params, u, **block)
        refined = refine(view, u + delta if residual else delta)
        targets = refine(view, u).match.teacher, refined.match.teacher, view.match.student
        logs = _diagnose(*(jax.nn.log_softmax(z / (temperature if rescale else 1.0)) for z in targets))
        logs |= _sizes(delta, residual, bound, reach)
        terms = {"anchor": anchor * temperature**2 * logs["kl_ut"]} if anchor else {}
        return refined, terms, logs, {}

    def without_attention(vars: Vars, view: View, key: Array, train: bool):
        if rescale:  # the criterion's temperature is the softening: KD, bit for bit
            view = view._replace(match=view.match._replace(temperature=temperature))
        elif soften:
            view = refine(view, softened(view.match.teacher, scale))
        return view, {}, {}, {}

    if not attention:
        return everywhere(Distiller(no_vars, without_attention, NEEDS, refines=NEEDS))
    whole_batch = {"": "attends over the whole batch"} if tokens == "batch" else {}
    fields = {"lr_multipliers": {"": rate}, "monitors": MONITORS, "refines": NEEDS, "whole_batch": whole_batch}
    return everywhere(Distiller(init, apply, NEEDS, **fields))


MONITORS = (
    Monitor("kept", 0.9, "the simplified target has another top class than the teacher's for many examples"),
    Monitor("ratio", 0.7, "the loss falls because the target moves to the student, not the student to the teacher"),
    Monitor("entropy_ratio", 0.1, "the simplified target has become nearly one-hot"),
)


def _diagnose(u: Array, v: Array, s: Array) -> Logs:
    """From log-probabilities (B, K) of softened teacher, target and student; each log (B,) or a ratio."""

    def entropy(p):
        return -jnp.sum(jnp.exp(p) * p, axis=-1)

    def ratio(a, b):
        return Mean(jnp.sum(a), jnp.sum(b))

    kl_ts, kl_us = kl(v, s), kl(u, s)
    centre = jax.nn.logsumexp(v, axis=0, keepdims=True) - jnp.log(v.shape[0])
    return {
        "kl_ut": kl(u, v),
        "kl_ts": kl_ts,
        "kl_us": kl_us,
        "ratio": ratio(kl_ts, kl_us),
        "entropy": entropy(v),
        "entropy_u": entropy(u),
        "entropy_ratio": ratio(entropy(v), entropy(u)),
        "kept": (jnp.argmax(v, axis=-1) == jnp.argmax(u, axis=-1)).astype(jnp.float32),
        "spread": kl(v, centre),
    }


def _sizes(delta: Array, residual: bool, bound: float | None, reach: float) -> Logs:
    """How large corrections (B, K) are; each log (B,)."""
    logs = {}
    if residual:
        logs["correction"] = reach * jnp.mean(jnp.abs(delta), axis=-1)
    if bound is not None:
        logs["at_bound"] = jnp.mean(reach * jnp.abs(delta) > 0.9 * bound, axis=-1)
    return logs


def _check(temperature, tokens, width, residual, bound, rate, anchor) -> None:
    """Refuse arguments of `skd` that are out of range."""
    finite = float("inf")
    require(
        "skd",
        temperature=(temperature, 0 < temperature < finite, "a finite number above 0"),
        tokens=(tokens, tokens in simplifier.TOKENS, "batch or classes"),
        width=(width, width is None or width > 0, "a number above 0, or None"),
        bound=(bound, bound is None or 0 < bound < finite, "a finite number above 0, or None"),
        rate=(rate, 0 < rate < finite, "a finite number above 0"),
        anchor=(anchor, 0 <= anchor < finite, "a finite number, at least 0"),
    )
    if bound is not None and not residual:
        raise InputError("skd: bound limits the correction of a residual; residual=False needs bound=None")
