"""What a phase reads: the batches of its steps with what the teachers say of them, and the test set as an exam."""

import numpy as np

from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import mean_logits
from kd_jax.programs import Programs, Resident
from kd_jax.typing import Batch, Outputs, Variables


class Examiner:
    """Measures the network in training on the whole test set. The teacher sits the exam once."""

    def __init__(self, programs: Programs, source: Resident, teachers: tuple[Variables, ...]):
        self._programs, self._source = programs, source
        self._batch_size = programs.job.phase.batch_size
        self._teacher_logits, hits = None, 0.0
        if teachers:
            self._teacher_logits = []
            for batch in source.test(self._batch_size):
                self._teacher_logits.append(mean_logits(programs.teach(teachers, batch["image"])))
                right = np.argmax(self._teacher_logits[-1], axis=-1) == np.asarray(batch["label"])
                hits += float(np.sum(right * np.asarray(batch["mask"])))
        self.teacher_top1 = hits / source.sizes["test"] if teachers else None

    def measure(self, variables: Variables) -> dict[str, float]:
        """loss, top1, top5 and, with a teacher, agreement over every test example once."""
        so_far = self._programs.no_measures()
        for i, batch in enumerate(self._source.test(self._batch_size)):
            logits = self._teacher_logits[i] if self._teacher_logits else None
            so_far = self._programs.evaluate(variables, logits, batch, so_far)
        return metrics_lib.read(so_far)


class Feed:
    """What the steps of a phase read: the teachers' outputs and the batch."""

    def __init__(self, programs: Programs, source: Resident, teachers: tuple[Variables, ...]):
        self._programs, self._source, self._teachers = programs, source, teachers
        self._next = {}  # a batch that the policy has read already

    def train(self, step: int) -> tuple[tuple[Outputs, ...], Batch]:
        """Of the training step."""
        return self._next.pop(step, None) or self._with_teachers(step)

    def judge(self, step: int) -> tuple[tuple[Outputs, ...], Batch]:
        """Of the policy step: held-out examples, or those of the next training step."""
        if self._programs.job.split.held_out:
            return self._with_teachers(step, judge=True)
        self._next = {step + 1: self._with_teachers(step + 1)}
        return self._next[step + 1]

    def _with_teachers(self, step: int, judge: bool = False) -> tuple[tuple[Outputs, ...], Batch]:
        job = self._programs.job
        batch = self._source.train(step, job.phase.batch_size, job.split, judge)
        return self._programs.teach(self._teachers, batch["image"]) if job.needs_teachers else (), batch
