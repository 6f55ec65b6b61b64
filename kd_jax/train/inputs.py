"""What a phase reads: the batches of its steps with what the teachers say of them, and the test set as an exam."""

from kd_jax.engine.state import TrainState
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import CompiledPhase
from kd_jax.typing import Batch, Outputs, Variables


def resolve_teachers(teachers: tuple[Variables | None, ...], state: TrainState) -> tuple[Variables, ...]:
    """The teachers as they are now: the network's average of the state in place of None."""
    return tuple(Variables(**state.ema) if v is None else v for v in teachers)


class StepInputs:
    """What the steps of a phase read: the teachers' outputs and the batch."""

    def __init__(self, programs: CompiledPhase, source: Resident | Streamed, teachers: tuple[Variables | None, ...]):
        self._programs, self._source, self._teachers = programs, source, teachers
        self._next = {}  # a batch that the policy has read already

    def train(self, step: int, state: TrainState) -> tuple[tuple[Outputs, ...], Batch]:
        """Of the training step. state: before it; a teacher that is the student's average is read from there."""
        return self._next.pop(step, None) or self._with_teachers(step, state)

    def ahead(self, step: int) -> None:
        """What the devices can be sent of a training step before it is due."""
        job = self._programs.job
        if step < job.steps and step not in self._next:
            self._source.ahead(step, job.phase.batch_size, job.split)

    def judge(self, step: int, state: TrainState) -> tuple[tuple[Outputs, ...], Batch]:
        """Of the policy step: held-out examples, or those of the next training step."""
        if self._programs.job.split.held_out:
            return self._with_teachers(step, state, judge=True)
        judging = self._with_teachers(step + 1, state)
        if all(self._teachers):  # one that moves will say something else by then
            self._next = {step + 1: judging}
        return judging

    def _with_teachers(self, step: int, state: TrainState, judge: bool = False) -> tuple[tuple[Outputs, ...], Batch]:
        job = self._programs.job
        batch = self._source.train(step, job.phase.batch_size, job.split, judge, job.strong)
        if not job.needs_teachers:
            return (), batch
        teachers = resolve_teachers(self._teachers, state)
        for view in batch.get("views", {}).values():
            view["teachers"] = self._programs.teach(teachers, view["image"])
        return self._programs.teach(teachers, batch["image"]), batch
