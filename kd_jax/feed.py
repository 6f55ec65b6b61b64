"""What a phase reads: the batches of its steps with what the teachers say of them, and the test set as an exam."""

from typing import Any

from flax import linen as nn

from kd_jax.batches import Resident, Streamed
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState, mean_logits
from kd_jax.programs import Programs
from kd_jax.typing import Batch, Outputs, Variables


def seated(teachers: tuple[Variables | None, ...], state: TrainState) -> tuple[Variables, ...]:
    """The teachers as they are now: the network's average of the state in place of None."""
    return tuple(Variables(**state.ema) if v is None else v for v in teachers)


class Examiner:
    """Measures the network in training on the whole test set. The teacher sits the exam once."""

    def __init__(self, programs: Programs, source: Resident | Streamed, teachers: tuple[Variables | None, ...]):
        self._programs, self._source = programs, source
        self._batch_size = programs.job.phase.batch_size
        self._teacher_logits, hits = None, 0.0
        if any(teachers):
            self._teacher_logits = []
            for batch in source.test(self._batch_size):
                self._teacher_logits.append(mean_logits(programs.teach(teachers, batch["image"])))
                hits += float(programs.right(self._teacher_logits[-1], batch))
        self.teacher_top1 = hits / source.sizes["test"] if any(teachers) else None

    def measure(self, state: TrainState) -> dict[str, Any]:
        """loss, top1, top5 and, with a teacher that does not move, agreement over every test example once; the same
        of the networks that are trained beside the student, under "networks" as LABEL/top1."""
        job = self._programs.job
        row = self.measure_network(job.network.model, state.student)
        peers = {label: self.measure_network(p.model, p.variables) for label, p in job.peers(state).items()}
        flat = {f"{label}/{name}": value for label, found in peers.items() for name, value in found.items()}
        return {**row, **({"networks": flat} if flat else {})}

    def measure_network(self, model: nn.Module, variables: Variables) -> dict[str, float]:
        """loss, top1, top5 and agreement of one network."""
        evaluate, so_far = self._programs.evaluate(model), self._programs.no_measures()
        for i, batch in enumerate(self._source.test(self._batch_size)):
            logits = self._teacher_logits[i] if self._teacher_logits else None
            so_far = evaluate(variables, logits, batch, so_far)
        return metrics_lib.read(so_far)


class Feed:
    """What the steps of a phase read: the teachers' outputs and the batch."""

    def __init__(self, programs: Programs, source: Resident | Streamed, teachers: tuple[Variables | None, ...]):
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
        teachers = seated(self._teachers, state)
        for view in batch.get("views", {}).values():
            view["teachers"] = self._programs.teach(teachers, view["image"])
        return self._programs.teach(teachers, batch["image"]), batch
