"""What a phase writes down: rows of metrics.jsonl, warnings of its monitors, its entry in summary.json."""

from typing import Any

import numpy as np

from kd_jax import models
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.loop import LoopState
from kd_jax.plan import PhasePlan
from kd_jax.storage.metrics_log import MetricsLog
from kd_jax.storage.progress import Progress, log_line
from kd_jax.tasks import Task
from kd_jax.train.phase_storage import PhaseRecord
from kd_jax.typing import AuxNetwork, Variables


def describe(task: Task, metrics: dict[str, Any]) -> str:
    """The task's metrics as a line has room for them: "top-1 91.20%  agreement 88.00%"."""
    return "  ".join(f"{task.titles[n]} {metrics[n]:.2%}" for n in task.shown if metrics.get(n) is not None)


class Rows:
    """The rows of one phase in the run's log."""

    def __init__(self, plan: PhasePlan, log: MetricsLog, record: PhaseRecord):
        """record: gets the results, and which monitors have warned."""
        self._plan, self._log, self._record = plan, log, record

    def add_train(self, loop: LoopState, step: int, progress: Progress) -> None:
        """The means since the last training row."""
        plan, means = self._plan, metrics_lib.read(loop.metrics)
        groups = {
            g: {k.removeprefix(g + "/"): v for k, v in means.items() if k.startswith(g + "/")}
            for g in ("terms", "logs")
        }
        values = {name: value for name, value in means.items() if "/" not in name}
        progress.advance(step, **values)
        values["lr"] = float(plan.schedule(np.int32(step - 1)))
        self._add("train", step, {**values, **groups})
        self._warn(step, groups["logs"])

    def add_test(self, measured: dict[str, Any], step: int, progress: Progress | None = None) -> None:
        """What the evaluator measured."""
        plan, row = self._plan, self._add("test", step, measured)
        self._record.results.add(row, plan.task)
        if progress:
            shown = f"test loss {row['loss']:.4f}  {describe(plan.task, row)}"
            progress.line(step, row["epoch"], plan.steps / plan.steps_per_epoch, shown)

    def network_results(self, aux_networks: dict[str, AuxNetwork]) -> dict[str, dict]:
        """The entries of the networks that are trained beside the student."""
        return {
            label: {
                "model": aux.name,
                "params": _count(aux.variables),
                **self._record.results.summary(self._plan.task, label),
            }
            for label, aux in aux_networks.items()
        }

    def _add(self, split: str, step: int, values: dict) -> dict:
        epoch = step / self._plan.steps_per_epoch
        row = {"phase": self._plan.name, "step": step, "epoch": epoch, "split": split, **values}
        self._log.add(row)
        return row

    def _warn(self, step: int, logs: dict[str, float]) -> None:
        for monitor in self._plan.distiller.monitors:
            if monitor.minimum is None or monitor.log in self._record.warned or logs[monitor.log] >= monitor.minimum:
                continue
            self._record.warned.append(monitor.log)
            value = f"{monitor.log} = {logs[monitor.log]:.3g} < {monitor.minimum:g}"
            log_line(f"warning: {self._plan.name}, step {step}: {value}: {monitor.message}")


def _count(variables: Variables) -> int:
    return models.count_parameters(variables.params)
