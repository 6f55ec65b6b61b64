"""Measures networks on the whole test set."""

from typing import Any

from flax import linen as nn

from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState, mean_logits
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import CompiledPhase
from kd_jax.typing import Variables


class Evaluator:
    """Measures the network in training on the whole test set. The teacher sits the exam once."""

    def __init__(self, programs: CompiledPhase, source: Resident | Streamed, teachers: tuple[Variables | None, ...]):
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
