"""What a phase's tests have shown so far. It is in every checkpoint: no result depends on a log that may be behind."""

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
        for name, value in {task.headline: row[task.headline], **row.get("networks", {})}.items():
            label, _, metric = name.rpartition("/")
            if metric == task.headline:
                self.best[label] = max(value, self.best.get(label, value))

    def at(self, step: int) -> dict:
        """The row of that step, {} if it was not tested."""
        return self.last if self.last.get("step") == step else {}

    def summary(self, task: Task, label: str = "") -> dict[str, float | None]:
        """The entries of summary.json on a network."""
        last = self.last["networks"] if label else self.last
        prefix = f"{label}/" if label else ""
        entries = {f"{task.headline}_last": last[prefix + task.headline], f"{task.headline}_best": self.best[label]}
        return entries | {f"{name}_last": last.get(prefix + name) for name in task.summary if name != task.headline}
