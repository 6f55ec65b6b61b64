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
from kd_jax.train.results import mean_of, over_seeds
from kd_jax.typing import AuxNetwork, Variables


def describe(task: Task, metrics: dict[str, Any], names: tuple[str, ...] = ()) -> str:
    """The task's metrics as a line has room for them: "top-1 91.20%  agreement 88.00%"; or that there are none. names:
    of some of them."""
    shown = (f"{task.titles[n]} {metrics[n]:.2%}" for n in names or task.shown if metrics.get(n) is not None)
    return "  ".join(shown) or f"{task.titles[task.headline]} not measured"


class Rows:
    """The rows of one phase in the run's log."""

    def __init__(self, plan: PhasePlan, log: MetricsLog, record: PhaseRecord):
        """record: gets the results, and which monitors have warned."""
        self._plan, self._log, self._record = plan, log, record

    def add_train(self, loops: tuple[LoopState, ...], step: int, progress: Progress) -> None:
        """The means since the last training row, a row for every seed."""
        plan, shown = self._plan, []
        rate = {"lr": float(plan.schedule(np.int32(step - 1)))}
        for seed, loop in zip(plan.seeds, loops, strict=True):
            means = metrics_lib.read(loop.metrics)
            groups = {
                g: {k.removeprefix(g + "/"): v for k, v in means.items() if k.startswith(g + "/")}
                for g in ("terms", "logs")
            }
            values = {name: value for name, value in means.items() if "/" not in name}
            shown.append(values)
            self._add("train", step, seed, {**values, **rate, **groups})
            self._warn(step, seed, groups["logs"])
        progress.advance(step, **mean_of(shown))

    def add_test(self, measured: tuple[dict[str, Any], ...], step: int, progress: Progress | None = None) -> None:
        """What the evaluator measured of every seed."""
        plan, rows = self._plan, []
        for seed, results, metrics in zip(plan.seeds, self._record.results, measured, strict=True):
            rows.append(self._add("test", step, seed, metrics))
            results.add(rows[-1], plan.task)
        if progress:
            mean = mean_of(list(measured))
            means = f"mean of {len(rows)} seeds: " if len(rows) > 1 else ""
            loss = f"test loss {mean['loss']:.4f}  " if "loss" in mean else ""
            shown = f"{means}{loss}{describe(plan.task, mean)}"
            headline = describe(plan.task, mean, (plan.task.headline,))
            progress.line(step, rows[0]["epoch"], plan.steps / plan.steps_per_epoch, shown, headline)

    def network_results(self, aux_networks: dict[str, AuxNetwork]) -> dict[str, dict]:
        """The entries of the networks that are trained beside the student."""
        return {
            label: {"model": aux.name, "params": _count(aux.variables), **self.results(label)}
            for label, aux in aux_networks.items()
        }

    def results(self, label: str = "") -> dict:
        """What the phase's tests have shown of its network, or of the one with a label beside it."""
        plan = self._plan
        pairs = zip(plan.seeds, self._record.results, strict=True)
        return over_seeds({seed: one.summary(plan.task, label) for seed, one in pairs}, plan.task.headline)

    def _add(self, split: str, step: int, seed: int, values: dict) -> dict:
        epoch, named = step / self._plan.steps_per_epoch, {"seed": seed} if len(self._plan.seeds) > 1 else {}
        row = {"phase": self._plan.name, "step": step, "epoch": epoch, "split": split, **named, **values}
        self._log.add(row)
        return row

    def _warn(self, step: int, seed: int, logs: dict[str, float]) -> None:
        for monitor in self._plan.distiller.monitors:
            if monitor.minimum is None or monitor.log in self._record.warned or logs[monitor.log] >= monitor.minimum:
                continue
            self._record.warned.append(monitor.log)
            value = f"{monitor.log} = {logs[monitor.log]:.3g} < {monitor.minimum:g}"
            log_line(f"warning: {self._plan.name}, {self._plan.of_seed(seed)}step {step}: {value}: {monitor.message}")


def _count(variables: Variables) -> int:
    return models.count_parameters(variables.params)
