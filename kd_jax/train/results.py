"""What a phase's tests have shown so far. It is in every checkpoint: no result depends on a log that may be behind."""

import statistics
from dataclasses import dataclass, field

from kd_jax.tasks import Task


@dataclass
class Results:
    """last: the newest test row, {} before the first. best: the highest headline of any row, chosen on the test set, of
    the phase's network ("") and of those beside it, by label."""

    last: dict = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)

    def add(self, row: dict, task: Task) -> None:
        """Take in a test row."""
        self.last = row
        for name, value in {task.headline: row.get(task.headline), **row.get("networks", {})}.items():
            label, _, metric = name.rpartition("/")
            if metric == task.headline and value is not None:
                self.best[label] = max(value, self.best.get(label, value))

    def at(self, step: int) -> dict:
        """The row of that step, {} if it was not tested."""
        return self.last if self.last.get("step") == step else {}

    def summary(self, task: Task, label: str = "") -> dict[str, float | None]:
        """The entries of summary.json on a network."""
        last = self.last.get("networks", {}) if label else self.last
        prefix = f"{label}/" if label else ""
        values = {"last": last.get(prefix + task.headline), "best": self.best.get(label)}  # None: nothing to measure by
        entries = {f"{task.headline}_{which}": value for which, value in values.items()}
        return entries | {f"{name}_last": last.get(prefix + name) for name in task.summary if name != task.headline}


def over_seeds(entries: dict[int, dict], headline: str) -> dict:
    """The entries of summary.json on the networks of several seeds: means, the deviation of the headline's, and under
    `seeds` each alone. Of one seed just its own.

    Args:
      entries: seed -> `Results.summary`.
      headline: of the task.
    """
    rows = list(entries.values())
    if len(rows) == 1:
        return rows[0]
    values = [row[f"{headline}_last"] for row in rows]
    deviation = None if None in values else statistics.stdev(values)
    return {**mean_of(rows), f"{headline}_std": deviation, "seeds": [{"seed": s, **row} for s, row in entries.items()]}


def mean_of(rows: list[dict]) -> dict:
    """The mean of every value of rows with the same keys, of None None."""

    def one(values: list):
        if isinstance(values[0], dict):
            return mean_of(values)
        return None if values[0] is None else statistics.fmean(values)

    return {key: one([row[key] for row in rows]) for key in rows[0]}


def over_rows(rows: list[dict]) -> list[dict]:
    """Rows of metrics.jsonl, those of the seeds of one (phase, split, step) as one: their means, and under `deviation`
    how far the seeds lie apart."""
    together: dict[tuple, list[dict]] = {}
    for row in rows:
        together.setdefault((row["phase"], row["split"], row["step"]), []).append(row)
    return [_one_row(group) for group in together.values()]


def _one_row(group: list[dict]) -> dict:
    if len(group) == 1:
        return group[0]
    where = ("phase", "split", "step", "seed")
    values = [{key: value for key, value in row.items() if key not in where} for row in group]
    spread = {k: statistics.stdev(row[k] for row in values) for k, v in values[0].items() if isinstance(v, float)}
    return {key: group[0][key] for key in where[:3]} | mean_of(values) | {"deviation": spread}
