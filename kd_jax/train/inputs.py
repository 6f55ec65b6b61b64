"""What the steps of a phase read: batches, with the teachers' outputs for them."""

from kd_jax.engine.state import TrainState
from kd_jax.plan import PhasePlan
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import Teachers
from kd_jax.train.teacher_cache import CachedTeachers
from kd_jax.typing import Batch, Outputs, Variables


def load_teachers(plan: PhasePlan) -> tuple[tuple[Variables | None, ...], tuple[str, ...]]:
    """The variables of a phase's teachers on the devices, and their digests; of one that moves None, and its name."""
    loaded = [teacher.load() if teacher.load else None for teacher in plan.teachers]
    digests = tuple(read.digest if read else t.origin for t, read in zip(plan.teachers, loaded, strict=True))
    return tuple(read and plan.layout.put(read.variables, "s") for read in loaded), digests


def resolve_teachers(teachers: tuple[Variables | None, ...], state: TrainState) -> tuple[Variables, ...]:
    """The teachers as they are now: the student's average in the state stands in place of None."""
    return tuple(Variables(**state.ema) if v is None else v for v in teachers)


class StepInputs:
    """What the steps of a phase read: the teachers' outputs and the batch."""

    def __init__(
        self, plan: PhasePlan, teach: Teachers, source: Resident | Streamed, teachers: tuple[Variables | None, ...],
        cache: CachedTeachers | None = None,
    ):  # fmt: skip
        """cache: what says what the teachers say of a batch in place of `teach`; extra views are not in it."""
        self._plan, self._teach, self._source, self._teachers = plan, teach, source, teachers
        self._cache = cache
        self._next = {}  # a batch that the policy step has read already

    def train(self, step: int, state: TrainState) -> tuple[tuple[Outputs, ...], Batch]:
        """What the training step reads. state: before it; a teacher that is the student's average is read from it."""
        return self._next.pop(step, None) or self._with_teachers(step, state)

    def ahead(self, step: int) -> None:
        """Send the devices what can be sent of a training step before it is due."""
        plan = self._plan
        if step < plan.steps and step not in self._next:
            self._source.ahead(step, plan.phase.batch_size, plan.split)

    def outer(self, step: int, state: TrainState) -> tuple[tuple[Outputs, ...], Batch]:
        """What the outer loss of the policy step reads: held-out examples, or those of the next training step."""
        if self._plan.split.held_out:
            return self._with_teachers(step, state, held_out=True)
        inputs = self._with_teachers(step + 1, state)
        if all(self._teachers):  # a teacher that moves has other outputs by then
            self._next = {step + 1: inputs}
        return inputs

    def _with_teachers(self, step: int, state: TrainState, held_out: bool = False) -> tuple[tuple[Outputs, ...], Batch]:
        plan = self._plan
        batch = self._source.train(step, plan.phase.batch_size, plan.split, held_out, plan.extra_views)
        if not plan.needs_teachers:
            return (), batch
        teachers = resolve_teachers(self._teachers, state)
        for view in batch.get("views", {}).values():
            view["teachers"] = self._teach(teachers, {**batch, "image": view["image"]})
        if self._cache:
            return self._cache.train(step, teachers, batch), batch
        return self._teach(teachers, batch), batch
