"""Refuses a teacher that guesses."""

import numpy as np

from kd_jax.models.outside import LogitsTable
from kd_jax.plan import PhasePlan
from kd_jax.typing import InputError


def near_chance(chance: float, tests: int) -> float:
    """The headline up to which a teacher may be guessing: three standard errors of a guess, or half its deviation,
    above chance; at most half-way to perfect, so that few classes or few test images refuse no good teacher.

    Args:
      chance: the headline of a guess, in (0, 1).
      tests: number of test examples.
    """
    variance = chance * (1 - chance)
    return min(chance + max(3 * (variance / tests) ** 0.5, variance / 2), (1 + chance) / 2)


def check_teacher(plan: PhasePlan, origin: str, measured: dict[str, float], tests: int) -> None:
    """Refuse a teacher near chance.

    Args:
      plan: of the phase that it teaches.
      origin: where it comes from.
      measured: the task's test metrics of it.
      tests: number of test examples.

    Raises:
      InputError: naming the phase's key.
    """
    task = plan.task
    value, chance = measured[task.headline], task.chance(plan.network.num_classes)
    if value <= near_chance(chance, tests):
        raise InputError(
            f"config.{plan.name}.teacher: {origin} has {task.titles[task.headline]} {value:.2%} on the test set, "
            f"near chance ({chance:.2%}): other weights, classes or normalisation? --config.teacher_check=False insists"
        )


def check_order(plan: PhasePlan, labels: np.ndarray) -> None:
    """Refuse a table of logits that is near chance on the training set: most likely it has another order.

    Args:
      plan: of the phase that it teaches.
      labels: of the training set.

    Raises:
      InputError: naming the phase's key.
    """
    chance = 1 / plan.network.num_classes
    for teacher in plan.teachers:
        if not isinstance(teacher.network.model, LogitsTable):
            continue
        table = teacher.load().variables.stats["train"]
        share = float(np.mean(table.argmax(axis=1) == labels))
        if share <= near_chance(chance, len(labels)):
            raise InputError(
                f"config.{plan.name}.teacher: {teacher.origin}: its highest logit is the label's for {share:.2%} of "
                f"the training images, near chance ({chance:.2%}): another order? --config.teacher_check=False insists"
            )
