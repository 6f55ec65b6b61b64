"""DeepKD's optimiser: the gradient of the target class has less momentum, those of the other classes and of the task
more."""

from collections.abc import Mapping
from types import MappingProxyType

import optax

from kd_jax.engine.dot import two_momenta
from kd_jax.typing import PyTree, Schedule


def deepkd(
    schedule: Schedule,
    *,
    dependencies: tuple[PyTree, PyTree] | None = None,
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 5e-4,
    lr_multipliers: Mapping[str, float] = MappingProxyType({}),
    apart: tuple[str, ...] = ("*/target",),
) -> optax.GradientTransformation:
    """SGD with a momentum for each kind of gradient.

        v_target <- (momentum - delta) v_target + g_target
        v_others <- (momentum + delta) v_others + g_task + g_rest + weight_decay p
        p        <- p - rate (v_target + v_others)

    g_target is the gradient of the terms that `apart` names, g_task and g_rest those of all others: the task's loss and
    distillation among the other classes, which have the same momentum, so that one buffer holds both. Parameters of one
    of the two alone are as in kd_jax.engine.dot. With delta = 0 all is SGD on the sum of the gradients.

    Args:
      schedule: the learning rate.
      dependencies, momentum, weight_decay, lr_multipliers: as for `dot`.
      delta: as for `dot`; published: mostly 0.05 to 0.095 on CIFAR-100.
      apart: names of terms, or patterns of them.

    Returns:
      A transformation whose `update` takes the pair (gradient of the terms apart, gradient of all others).

    Raises:
      ValueError: an argument out of range; no dependencies where delta is not 0.

    Reference: Huang et al., "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer", 2025, arXiv
      2505.15133 (as reported; its text was not read by us).
    Differs: in the published code the task's gradient has the target's momentum, whatever its setting says, and the
      three moves are made one after the other. Its settings give the two kinds a delta each.
    """
    del apart  # who makes the gradients reads it (kd_jax.plan.optimizers)
    how = {"momentum": momentum, "delta": delta, "weight_decay": weight_decay, "lr_multipliers": lr_multipliers}
    return two_momenta("deepkd", schedule, dependencies, **how, decays_slow=False)
