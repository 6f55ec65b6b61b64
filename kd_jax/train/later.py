"""How long the phases behind the present one will take, as far as the finished ones and it itself can say."""

from collections.abc import Iterable

from kd_jax.plan import PhasePlan
from kd_jax.storage.progress import Later


def later_of(present: PhasePlan, waiting: Iterable[PhasePlan], done: Iterable[tuple[PhasePlan, dict]]) -> Later:
    """What a run does after a phase.

    A step is taken to last as long as one of a phase with the same networks, batch and number of seeds: the present
    one, or the last one that is finished. Methods differ, so it is an estimate. Of other phases nothing is known.

    Args:
      present: the phase.
      waiting: those that have not begun.
      done: those that are finished, with their entries in summary.json.
    """
    seconds = {_kind(plan): entry["ms_per_step"] / 1000 for plan, entry in done if entry["ms_per_step"]}
    later = Later()
    for plan in waiting:
        if _kind(plan) == _kind(present):
            later = later._replace(steps=later.steps + plan.steps)
        elif _kind(plan) in seconds:
            later = later._replace(seconds=later.seconds + seconds[_kind(plan)] * plan.steps)
        elif plan.steps:  # none where weights are loaded
            later = later._replace(unknown=later.unknown + 1)
    return later


def _kind(plan: PhasePlan) -> tuple:
    """What the time of a step depends on most."""
    teachers = tuple(teacher.network.name for teacher in plan.teachers) if plan.needs_teachers else ()
    return plan.network.name, teachers, plan.phase.batch_size, len(plan.seeds)
