"""Files of a run's folder: metrics.jsonl, JSON documents, and the progress shown to a person."""

import json
import sys
import time
from typing import Any

from etils import epath
from tqdm import tqdm

from kd_jax import hosts
from kd_jax.typing import InputError

FLUSH = 20.0  # seconds between two writes of metrics.jsonl to an object store, which takes whole files only


def write_json(path: epath.Path, document: Any) -> None:
    """Write a JSON document so that a reader sees the old one or the new one, never half of it."""
    write_text(path, json.dumps(document, indent=2) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Write a text file in one go, by renaming a finished one; an object store shows a file once it is whole. Of
    several processes the first one writes."""
    if not hosts.first():
        return
    if on_store(path):
        path.write_text(text)
        return
    beside = path.parent / f".{path.name}.new"
    beside.write_text(text)
    beside.replace(path)


def on_store(path: epath.Path) -> bool:
    """Whether a path is on an object store: no append, no rename, no lock, no empty folders."""
    return "://" in str(path)


def move(folder: epath.Path, target: epath.Path) -> None:
    """Move a folder; on an object store file by file."""
    if not on_store(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        return
    for file in list(folder.iterdir()):
        if file.is_dir():
            move(file, target / file.name)
        else:
            file.copy(target / file.name)
    folder.rmtree()


def read_json(path: epath.Path) -> dict:
    """Read a JSON object; InputError if it is not one."""
    try:
        document = json.loads(path.read_text())
        if not isinstance(document, dict):
            raise ValueError(f"a {type(document).__name__}, not an object")
    except ValueError as e:
        raise InputError(f"{path}: not readable JSON ({e}); restore it, or start afresh with --overwrite") from e
    return document


class MetricsLog:
    """metrics.jsonl: one object a line, each (phase, split, step) once.

    On an object store, which cannot append, the file is rewritten now and then, and at every `flush`.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._on_store, self._written = on_store(path), 0.0
        self.rows = _whole_rows(path) if path.exists() else []
        self._board = None

    def rewind(self, phase: str, step: int) -> None:
        """Drop a phase's rows after a step: they will be written again."""
        self._replace([row for row in self.rows if row["phase"] != phase or row["step"] <= step])

    def in_order(self, phases: list[str]) -> None:
        """Put the rows in the order of the phases (a damaged earlier phase may have been repeated)."""
        self._replace(sorted(self.rows, key=lambda row: phases.index(row["phase"])))

    def _replace(self, rows: list[dict]) -> None:
        self.rows = rows
        write_text(self._path, "".join(map(_line, rows)))

    def add(self, *rows: dict) -> None:
        """Append rows; they are in the file when this returns, on an object store within FLUSH seconds of training."""
        self.rows += rows
        if not hosts.first():
            return
        if not self._on_store:
            with self._path.open("a") as file:
                file.write("".join(map(_line, rows)))
        elif time.monotonic() - self._written > FLUSH:
            self.flush()
        for row in rows if self._board else ():
            for name, value in _scalars(row):
                self._board.add_scalar(f"{row['split']}/{name}", value, row["step"])

    def flush(self) -> None:
        """Have all rows in the file: before a checkpoint is saved, for a run that resumes from it keeps them."""
        if self._on_store:
            self._replace(self.rows)
            self._written = time.monotonic()

    def mirror(self, folder: epath.Path | None, phase: str, step: int) -> None:
        """From `step` of a phase on, also write TensorBoard events under folder/phase; None: no longer."""
        if self._board:
            self._board.close()
        self._board = folder and hosts.first() and tensorboard().SummaryWriter(str(folder / phase), purge_step=step + 1)

    def of(self, phase: str, split: str) -> list[dict]:
        """The rows of one phase and split, in order."""
        return [r for r in self.rows if r["phase"] == phase and r["split"] == split]


def tensorboard():
    """The module tensorboardX; InputError where it is not installed."""
    try:
        import tensorboardX
    except ImportError as e:
        raise InputError("config.log.tensorboard: needs tensorboardX; pip install 'kd_jax[tensorboard]'") from e
    return tensorboardX


def _scalars(row: dict):
    """(name, value) of a row's numbers, those of its groups too."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{inner}", v) for inner, v in value.items())
        elif isinstance(value, float):
            yield name, value


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"


def _whole_rows(path: epath.Path) -> list[dict]:
    rows = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break  # half-written, and so is everything after it
        if not line.endswith("\n") or not isinstance(row, dict) or not {"phase", "split", "step"} <= set(row):
            break
        rows.append(row)
    return rows


class Progress:
    """A bar with rate and time left on a terminal; elsewhere one line an evaluation."""

    def __init__(self, phase: str, start: int, steps: int):
        self._bar = tqdm(
            total=steps,
            initial=start,
            desc=phase,
            unit="step",
            file=sys.stderr,
            disable=not (sys.stderr.isatty() and hosts.first()),
            leave=False,
        )
        self._phase, self._start, self._steps, self._since = phase, start, steps, time.monotonic()

    def advance(self, step: int, **shown: float) -> None:
        """Move to `step`, with a few numbers beside the bar."""
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()})

    def line(self, step: int, epoch: float, epochs: float, row: dict) -> None:
        """One printed line for an evaluation."""
        left = (time.monotonic() - self._since) / max(step - self._start, 1) * (self._steps - step)
        agreement = f"  agreement {row['agreement']:.2%}" if "agreement" in row else ""
        say(
            f"{self._phase}: epoch {epoch:g}/{epochs:g}  test loss {row['loss']:.4f}  "
            f"top-1 {row['top1']:.2%}{agreement}  left {_clock(left)}"
        )

    def close(self) -> None:
        self._bar.close()


def say(text: str) -> None:
    """Print a line without breaking a progress bar. Of several processes the first one speaks."""
    if not hosts.first():
        return
    with tqdm.external_write_mode(file=sys.stdout):
        print(text, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
