"""metrics.jsonl, and what shows its rows elsewhere as they come."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable

from etils import epath

from kd_jax.distributed import processes
from kd_jax.storage.files import on_store, write_text, writing
from kd_jax.storage.trackers import Tracker
from kd_jax.typing import InputError, first_line

FLUSH = 20.0  # seconds between two writes of metrics.jsonl to an object store, which takes whole files only


class MetricsLog:
    """metrics.jsonl: one object a line, each (phase, split, step) once; of a phase that trains several seeds together,
    each (phase, split, step, seed).

    On an object store, which cannot append, the file is rewritten now and then, and at every `flush`.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._on_store, self._written = on_store(path), 0.0
        self.rows = _whole_rows(path) if path.exists() else []
        self._trackers: list[Tracker] = []

    def rewind(self, phase: str, step: int) -> None:
        """Drop a phase's rows after a step: they will be written again."""
        self._replace([row for row in self.rows if row["phase"] != phase or row["step"] <= step])

    def in_order(self, phases: list[str]) -> None:
        """Put the rows in the order of the phases (a damaged earlier phase may have been repeated). Rows of other
        phases go: an earlier run left them."""
        rows = [row for row in self.rows if row["phase"] in phases]
        self._replace(sorted(rows, key=lambda row: phases.index(row["phase"])))

    def _replace(self, rows: list[dict]) -> None:
        self.rows = rows
        write_text(self._path, as_text(rows))

    def add(self, *rows: dict) -> None:
        """Append rows; they are in the file when this returns, on an object store within FLUSH seconds of training."""
        self.rows += rows
        if not processes.is_main():
            return
        if not self._on_store:
            with writing(self._path), self._path.open("a") as file:
                file.write(as_text(rows))
        elif time.monotonic() - self._written > FLUSH:
            self.flush()
        for row in rows:
            for tracker in self._trackers:
                tracker.add(row)

    def flush(self) -> None:
        """Have all rows on the disk: before a checkpoint is saved, for a run that resumes from it keeps them."""
        if self._on_store:
            self._replace(self.rows)
            self._written = time.monotonic()
        elif processes.is_main() and self._path.exists():
            with writing(self._path), self._path.open("a") as file:
                os.fsync(file.fileno())

    def counts(self, phase: str, step: int) -> dict[str, int]:
        """How many rows a phase has of every split, up to a step."""
        return dict(Counter(row["split"] for row in self.rows if row["phase"] == phase and row["step"] <= step))

    def track(self, trackers: Iterable[Tracker]) -> None:
        """From now on give rows to these trackers too, and no longer to others."""
        for tracker in self._trackers:
            tracker.close()
        self._trackers = list(trackers)

    def of(self, phase: str, split: str | None = None) -> list[dict]:
        """The rows of one phase and split, or of all its splits, in order."""
        return [r for r in self.rows if r["phase"] == phase and split in (None, r["split"])]


def as_text(rows: Iterable[dict]) -> str:
    """Rows as the file has them."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def _whole_rows(path: epath.Path) -> list[dict]:
    rows = []
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror or first_line(e)}); move it away") from e
    for line in content.splitlines(keepends=True):
        try:
            row = json.loads(line.decode())
        except ValueError:
            break  # half-written, and so is everything after it
        if not line.endswith(b"\n") or not isinstance(row, dict) or not {"phase", "split", "step"} <= set(row):
            break
        rows.append(row)
    return rows
