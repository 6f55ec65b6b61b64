"""What a phase's tests have shown so far. It is in every checkpoint: no result depends on a log that may be behind."""

from dataclasses import dataclass, field


@dataclass
class Results:
    """last: the newest test row, {} before the first. best: the highest top-1 of any row, chosen on the test set, of
    the phase's own network ("") and of those beside it, by label."""

    last: dict = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)

    def add(self, row: dict) -> None:
        """Take in a test row."""
        self.last = row
        for name, value in {"top1": row["top1"], **row.get("networks", {})}.items():
            label, _, metric = name.rpartition("/")
            if metric == "top1":
                self.best[label] = max(value, self.best.get(label, value))

    def at(self, step: int) -> dict:
        """The row of that step, {} if it was not tested."""
        return self.last if self.last.get("step") == step else {}

    def summary(self, label: str = "") -> dict:
        """The entries of summary.json on a network."""
        if label:
            shares = {name: self.last["networks"][f"{label}/{name}"] for name in ("top1", "top5")}
        else:
            shares = self.last
        return {"top1_last": shares["top1"], "top1_best": self.best[label], "top5_last": shares["top5"]}
