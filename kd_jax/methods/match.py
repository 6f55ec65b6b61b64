"""Refiners of the pair of logits that criteria compare: logit standardisation, a learned temperature."""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.layers.augment import straight_through
from kd_jax.methods.base import everywhere, no_vars, require
from kd_jax.typing import Array, Distiller, InitContext, Monitor, Need, Vars, View

NEEDS = frozenset({Need.MATCH})


def lskd(*, temperature: float = 2.0) -> Distiller:
    """Logit standardisation: both sides of `match` get mean 0 and deviation 1 over the classes, example by example.

        match = standardize(match.student), standardize(match.teacher), temperature

    It stands before any criterion on logits, and behind a refiner of the target (skd), whose shift and scale it
    takes out and whose temperature it replaces. `ctkd` stands behind it, since the later temperature counts. The
    task loss is unchanged. Nothing is detached here. Published weights on CIFAR-100: 0.1 of `ce` and 9 of `kd`, and
    DKD's alpha and beta times 9 to 18.

    Args:
      temperature: > 0, the base temperature, handed on in `match`; 3 and 4 for some of the published pairs.

    Raises:
      ValueError: a temperature that is not above 0.

    Reference: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", 2024,
      arXiv 2403.01427.
    """
    require("lskd", temperature=(temperature, 0 < temperature < float("inf"), "a finite number above 0"))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        pair = {"student": losses.standardize(view.match.student), "teacher": losses.standardize(view.match.teacher)}
        return view._replace(match=view.match._replace(**pair, temperature=temperature)), {}, {}, vars.stats

    return everywhere(Distiller(no_vars, apply, NEEDS, refines=NEEDS))


def ctkd(
    *,
    start: float = 1.0,
    scale: float = 20.0,
    init: float = 1.0,
    rate: float = 1.0,
    epochs: int = 10,
) -> Distiller:
    """Curriculum temperature: one learned temperature that makes the student's task harder over the first epochs.

        match.temperature = T = start + scale sigmoid(t)

    t is the method's only parameter. The gradient of whatever criteria make of T reaches t times

        lambda = (cos(pi min(epoch / epochs, 1)) - 1) / 2,   from 0 to -1, constant within an epoch

    (epochs counted from 1), hence t climbs the loss that the student descends. Only t's gradient is turned round.
    Criteria with a temperature of their own do not see T. The logits stay as they are, and a temperature that a
    refiner before has set (skd, lskd) is replaced; one behind would replace this. Log: temperature.

    How many steps make an epoch is a statistic of the method, a () float32 that never changes: a checkpoint holds it.

    Args:
      start: > 0, below any temperature.
      scale: >= 0, width of the range of temperatures; 0 holds T at `start`.
      init: t at the start; 1 makes T = 15.6.
      rate: learning rate of t as a multiple of the student's, > 0.
      epochs: >= 1, after how many lambda is -1.

    Raises:
      ValueError: an argument outside its range.

    Reference: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, "Curriculum Temperature for Knowledge Distillation", 2023,
      arXiv 2211.16231; the reversal: Ganin, Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", 2015.
    Differs: this is its global temperature, one for all examples; the one of each example, from a small network, is
      not here. As published t goes through the student's optimiser: the same rate, momentum and weight decay, which
      draws t to 0, T to start + scale / 2.
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

    def make(key: Array, context: InitContext) -> Vars:
        # float32, since statistics are averaged over devices
        steps = jnp.float32(context.steps_per_epoch)
        return Vars({"t": jnp.float32(init)}, {"steps_per_epoch": steps}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        t, steps = vars.params["t"], jnp.rint(vars.stats["steps_per_epoch"]).astype(jnp.int32)
        epoch = view.step // steps + 1
        reversal = (jnp.cos(jnp.pi * jnp.minimum(epoch / epochs, 1.0)) - 1) / 2
        temperature = start + scale * jax.nn.sigmoid(straight_through(t, reversal.astype(t.dtype) * t))
        match = view.match._replace(temperature=temperature)
        return view._replace(match=match), {}, {"temperature": temperature}, vars.stats

    watch = (Monitor("temperature", unit="temperature"),)
    made = Distiller(
        make, apply, NEEDS, lr_multipliers={"": rate}, monitors=watch, refines=frozenset({Need.MATCH_TEMPERATURE})
    )
    return everywhere(made)
