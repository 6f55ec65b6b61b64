"""What the steps of a phase read: batches, with the teachers' outputs for them."""

from kd_jax.engine.seeds import PerSeed
from kd_jax.engine.state import TrainState
from kd_jax.plan import PhasePlan
from kd_jax.storage.progress import log_line
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import Teachers
from kd_jax.train.teacher_cache import CachedTeachers
from kd_jax.typing import Batch, Outputs, Variables


def load_teachers(plan: PhasePlan) -> tuple[tuple[Variables | None, ...], tuple[str, ...]]:
    """The variables of a phase's teachers on the devices, and their digests; of one that moves None, and its name."""
    loaded = [teacher.load() if teacher.load else None for teacher in plan.teachers]
    for teacher, read in zip(plan.teachers, loaded, strict=True):
        if read and read.seed is not None:
            several = f"teacher {teacher.origin} has several seeds; that of seed {read.seed} teaches all"
            log_line(f"{plan.name}: {several}")
    digests = tuple(read.digest if read else t.origin for t, read in zip(plan.teachers, loaded, strict=True))
    return tuple(read and plan.layout.put(read.variables, "s") for read in loaded), digests


def resolve_teachers(teachers: tuple[Variables | None, ...], state: TrainState) -> tuple[Variables, ...]:
    """The teachers as they are now: the student's average in the state stands in place of None."""
    return tuple(Variables(**state.ema) if v is None else v for v in teachers)


class StepInputs:
    """What the steps of a phase read: the teachers' outputs and the batch, the same for all seeds, but for the outputs
    of a teacher that is the student's average: those are PerSeed where there are several."""

    def __init__(
        self, plan: PhasePlan, teach: Teachers, source: Resident | Streamed, teachers: tuple[Variables | None, ...],
        cache: CachedTeachers | None = None,
    ):  # fmt: skip
        """cache: what says what the teachers say of a batch in place of `teach`; extra views are not in it."""
        self._plan, self._teach, self._source, self._teachers = plan, teach, source, teachers
        self._cache = cache
        self._next = {}  # a batch that the policy step has read already

    def train(self, step: int, states: tuple[TrainState, ...]) -> tuple[tuple[Outputs | PerSeed, ...], Batch]:
        """What the training step reads. states: of the seeds before it; a teacher that is the student's average is read
        from them."""
        return self._next.pop(step, None) or self._with_teachers(step, states)

    def ahead(self, step: int) -> None:
        """Send the devices what can be sent of a training step before it is due."""
        plan = self._plan
        if step < plan.steps and step not in self._next:
            self._source.ahead(step, plan.phase.batch_size, plan.split)

    def outer(self, step: int, states: tuple[TrainState, ...]) -> tuple[tuple[Outputs | PerSeed, ...], Batch]:
        """What the outer loss of the policy step reads: held-out examples, or those of the next training step."""
        if self._plan.split.held_out:
            return self._with_teachers(step, states, held_out=True)
        inputs = self._with_teachers(step + 1, states)
        if all(self._teachers):  # a teacher that moves has other outputs by then
            self._next = {step + 1: inputs}
        return inputs

    def _with_teachers(self, step: int, states: tuple[TrainState, ...], held_out: bool = False) -> tuple:
        plan = self._plan
        batch = self._source.train(step, plan.phase.batch_size, plan.split, held_out, plan.extra_views)
        outputs = self._cache.train(step, self._teachers, batch) if self._cache else None
        return with_teachers(plan, self._teach, self._teachers, states, batch, outputs)


def with_teachers(
    plan: PhasePlan, teach: Teachers, teachers: tuple[Variables | None, ...], states: tuple[TrainState, ...],
    batch: Batch, outputs: tuple[Outputs, ...] | None = None,
) -> tuple[tuple[Outputs | PerSeed, ...], Batch]:  # fmt: skip
    """The teachers' outputs for a batch, as far as training reads them, and the batch with those for its extra views.
    A compiled program may call it.

    Args:
      plan: of the phase. teach: its teachers' programs.
      teachers: their variables; None for the student's average in the state.
      states: of the seeds before the step.
      batch: see `Resident.train`.
      outputs: the teachers' for the batch itself, where they are there already.
    """
    if not plan.needs_teachers:
        return (), batch
    views = {
        name: {**view, "teachers": _outputs(teach, teachers, states, {**batch, "image": view["image"]})}
        for name, view in batch.get("views", {}).items()
    }
    outputs = outputs or _outputs(teach, teachers, states, batch)
    return outputs, {**batch, **({"views": views} if views else {})}


def _outputs(
    teach: Teachers, teachers: tuple[Variables | None, ...], states: tuple[TrainState, ...], batch: Batch
) -> tuple[Outputs | PerSeed, ...]:
    """By one pass of each teacher that stays as it is, and by one for every seed of each that moves."""
    if all(teachers) or len(states) == 1:
        return teach(resolve_teachers(teachers, states[0]), batch)
    moves = [teacher is None for teacher in teachers]
    fixed, moving = iter(teach(teachers, batch)), []
    for state in states:
        averages = tuple(Variables(**state.ema) if moved else None for moved in moves)
        moving.append(iter(teach(averages, batch)))
    return tuple(PerSeed(tuple(map(next, moving))) if moved else next(fixed) for moved in moves)
