"""Refiners of the pair of logits that criteria compare: logit standardisation, a learned temperature."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from kd_jax import losses
from kd_jax.layers.augment import straight_through
from kd_jax.methods.base import everywhere, no_vars, require
from kd_jax.typing import Array, Distiller, InitContext, Monitor, Need, Vars, View

NEEDS = frozenset({Need.MATCH})
BOTH = frozenset({Need.MATCH, Need.MATCH_TEMPERATURE})  # what a refiner refines that sets the temperature too
MONITORS = (Monitor("temperature", unit="temperature"),)  # of ctkd


def lskd(*, temperature: float = 2.0) -> Distiller:
    """Logit standardisation: both sides of `match` get mean 0 and deviation 1 over the classes, example by example.

        match = standardize(match.student), standardize(match.teacher), temperature

    It stands before any criterion on logits, and behind a refiner of the target (skd): it removes that target's shift
    and scale and replaces its temperature. `ctkd` stands behind it, since the later temperature counts. The task loss
    does not change. Nothing is detached here. Published weights on CIFAR-100: 0.1 of `ce` and 9 of `kd`, and
    DKD's alpha and beta times 9 to 18.

    Args:
      temperature: > 0, the base temperature, set in `match`; 3 and 4 for some of the published pairs.

    Raises:
      InputError: a temperature that is not above 0.

    Reference: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", 2024,
      arXiv 2403.01427.
    """
    require("lskd", temperature=(temperature, 0 < temperature < float("inf"), "a finite number above 0"))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        return normalized(view, Partial(losses.standardize), temperature), {}, {}, vars.stats

    return everywhere(Distiller(no_vars, apply, NEEDS, refines=BOTH))


def normalized(view: View, function: Partial, temperature: Array | float) -> View:
    """A view with a function of logits (..., B, K) applied to both sides of the pair, which remembers it (see
    `comparable`), at one temperature."""
    match = view.match
    both = function if match.normalize is None else Partial(_after, function, match.normalize)
    pair = {"student": function(match.student), "teacher": function(match.teacher), "normalize": both}
    return view._replace(match=match._replace(**pair, temperature=temperature, teacher_temperature=None))


def _after(second: Partial, first: Partial, logits: Array) -> Array:
    return second(first(logits))


def ctkd(
    *,
    start: float = 1.0,
    scale: float = 20.0,
    init: float = 1.0,
    rate: float = 1.0,
    epochs: int = 10,
) -> Distiller:
    """Curriculum temperature: one learned temperature, which makes the student's task harder over the first epochs.

        match.temperature = T = start + scale sigmoid(t)

    t is the method's only parameter. The criteria that read T give t a gradient. It is multiplied by

        lambda = (cos(pi min(epoch / epochs, 1)) - 1) / 2,   from 0 to -1, constant within an epoch

    (epochs counted from 1): the student descends the loss, t ascends it. Only t's gradient is reversed. Criteria with a
    temperature of their own do not read T. The logits do not change. T replaces the temperature of a refiner that
    stands before (skd, lskd); a refiner behind would replace T. Log: temperature.

    The number of steps in an epoch is a statistic of the method, a () float32 that never changes: a checkpoint has it.

    Args:
      start: > 0, the lower bound of T.
      scale: >= 0, width of the range of temperatures; 0 holds T at `start`.
      init: t at the start; 1 makes T = 15.6.
      rate: learning rate of t as a multiple of the student's, > 0.
      epochs: >= 1, after how many lambda is -1.

    Raises:
      InputError: an argument outside its range.

    Reference: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, "Curriculum Temperature for Knowledge Distillation", 2023,
      arXiv 2211.16231; the reversal: Ganin, Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", 2015.
    Differs: this is the paper's global temperature, one for all examples; its temperature of each example, from a small
      network, is not here. As published the student's optimiser updates t, with the same rate, momentum and weight
      decay; the decay draws t to 0, hence T to start + scale / 2.
    """
    finite = float("inf")
    require(
        "ctkd",
        start=(start, 0 < start < finite, "a finite number above 0"),
        scale=(scale, 0 <= scale < finite, "a finite number, at least 0"),
        init=(init, abs(init) < finite, "a finite number"),
        rate=(rate, 0 < rate < finite, "a finite number above 0"),
        epochs=(epochs, epochs >= 1, "at least 1"),
    )

    def apply(vars: Vars, view: View, key: Array, train: bool):
        t, steps = vars.params["t"], jnp.rint(vars.stats["steps_per_epoch"]).astype(jnp.int32)
        epoch = view.step // steps + 1
        reversal = (jnp.cos(jnp.pi * jnp.minimum(epoch / epochs, 1.0)) - 1) / 2
        temperature = start + scale * jax.nn.sigmoid(straight_through(t, reversal.astype(t.dtype) * t))
        match = view.match._replace(temperature=temperature, teacher_temperature=None)
        return view._replace(match=match), {}, {"temperature": temperature}, vars.stats

    def init_vars(key: Array, context: InitContext) -> Vars:
        # float32, since statistics are averaged over devices
        steps = jnp.float32(context.steps_per_epoch)
        return Vars({"t": jnp.float32(init)}, {"steps_per_epoch": steps}, {})

    refines = frozenset({Need.MATCH_TEMPERATURE})
    return everywhere(Distiller(init_vars, apply, NEEDS, lr_multipliers={"": rate}, monitors=MONITORS, refines=refines))
