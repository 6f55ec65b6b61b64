"""Measures networks on the whole test set."""

from functools import partial
from typing import Any

from flax import linen as nn

from kd_jax import engine
from kd_jax.distributed.mesh import Layout
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.loop import normalized
from kd_jax.engine.state import TrainState
from kd_jax.models.network import Network
from kd_jax.plan import PhasePlan
from kd_jax.tasks import CLASSIFICATION, Task
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import Teachers
from kd_jax.typing import Variables


class Evaluator:
    """Measures networks on every test example once. What the teachers say of them is computed once."""

    def __init__(
        self, layout: Layout, source: Resident | Streamed, network: Network, batch_size: int,
        task: Task = CLASSIFICATION,
    ):  # fmt: skip
        """network: whose normalisation the measured networks have."""
        self._layout, self._source, self._network, self._task = layout, source, network, task
        self._batch_size = batch_size
        self._programs: dict[Any, Any] = {}
        self._teacher_predictions: list = []

    def measure_teachers(self, teach: Teachers, teachers: tuple[Variables | None, ...]) -> dict[str, float] | None:
        """The test metrics of the teachers' common prediction, from then on what agreement is measured with; None
        where there is no teacher, or none that stays as it is."""
        if not any(teachers):
            return None
        measure = self._layout.jit(partial(_measure_prediction, self._task), ins="bb", outs="r")
        measured = []
        for batch in self._source.test(self._batch_size):
            prediction = self._task.predict(teach(teachers, batch, "test"))
            self._teacher_predictions.append(prediction)
            measured.append(measure(prediction, batch))
        return metrics_lib.read(measured)

    def measure(self, plan: PhasePlan, state: TrainState) -> dict[str, Any]:
        """The task's test metrics of a phase's student; the same of the networks that are trained beside it, under
        "networks" as LABEL/METRIC."""
        row = self.measure_network(plan.network.model, state.student)
        beside = {}
        for label, network in plan.aux_networks(state).items():
            metrics = self.measure_network(network.model, network.variables)
            beside |= {f"{label}/{name}": value for name, value in metrics.items()}
        return {**row, **({"networks": beside} if beside else {})}

    def measure_network(self, model: nn.Module, variables: Variables) -> dict[str, float]:
        """The task's test metrics of one network."""
        if model not in self._programs:
            measure = partial(_measure, self._task, self._network, model, self._layout.gather)
            self._programs[model] = self._layout.jit(measure, ins="sbb", outs="r")
        measured = []
        for i, batch in enumerate(self._source.test(self._batch_size)):
            prediction = self._teacher_predictions[i] if self._teacher_predictions else None
            measured.append(self._programs[model](variables, prediction, batch))
        return metrics_lib.read(measured)


def _measure(task: Task, network: Network, model: nn.Module, gather, variables: Variables, prediction, batch):
    """network: whose normalisation the measured model has."""
    return engine.eval_step(gather(variables), prediction, normalized(batch, network), model=model, task=task)


def _measure_prediction(task: Task, prediction, batch) -> metrics_lib.Metrics:
    values = task.test_metrics(prediction, None, batch)
    return {name: metrics_lib.mean_of(value, batch["mask"]) for name, value in values.items()}
