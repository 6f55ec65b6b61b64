"""One attempt at the soak's run: start or resume it, and end it at a random moment."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"teacher": 15, "student": 30}
RECIPE = (
    "--config=configs/skd.py:resnet8,resnet8,smoke", "--config.seed=5",
    "--config.data.synthetic.size=8", "--config.data.synthetic.classes=5",
    "--config.data.synthetic.train=40", "--config.data.synthetic.test=13",
    "--config.checkpoint.every=4", "--config.log.every=7",  # sums of metrics straddle saves
    *(f"--config.{phase}.steps={steps}" for phase, steps in STEPS.items()),
)  # fmt: skip
PATIENCE = 600  # seconds


class Failed(Exception):
    """A run ended as it should not."""


class Kill(NamedTuple):
    """point: of tests/train/killer.py; or "", for `number` from outside, `delay` seconds after metrics.jsonl
    changed `changes` times (it does when a phase begins and with every row) and, with `in_save`, a
    little into the next save."""

    point: str = ""
    number: int = 0
    changes: int = 1
    delay: float = 0.0
    in_save: bool = False

    def __str__(self):
        when = f"{self.delay:.2f} s after row {self.changes - 1}"
        return self.point or f"{when}{', into a save' * self.in_save}"


class Death(NamedTuple):
    """signal: its name. in_save: Orbax's unfinished folder was there."""

    signal: str
    in_save: bool


def draw(rng: random.Random) -> Kill:
    """A random way to die."""
    kind = rng.choice(("train", "term", "term", "save", "end", "outside", "outside", "outside in a save"))
    if kind in ("train", "term"):
        return Kill(f"{kind}:{rng.randint(1, 20)}")
    if kind == "save":
        return Kill(f"save:{rng.randint(1, 5)}:{rng.randint(0, 80)}")
    if kind == "end":  # of the first phase, or of the run
        return Kill(rng.choice(("done", "report")))
    number = rng.choice((signal.SIGKILL, signal.SIGTERM))
    return Kill("", number, rng.randint(1, 7), rng.uniform(0, 0.5), kind == "outside in a save")


def attempt(home: Path, kill: Kill | None = None, config: Path | None = None) -> Death | None:
    """Run or resume in `home` by the real command, or by tests/train/killer.py where the kill has a point.

    Args:
      home: folder of the run.
      kill: how it is to end; None for not at all.
      config: the recipe as tests/train/killer.py reads it.

    Returns:
      What it died of, or None if it finished.

    Raises:
      Failed: it ended in any other way.
    """
    command = ["launch/train.py", *RECIPE, f"--workdir={home}"]
    if kill and kill.point:
        command = ["-m", "tests.train.killer", str(config), str(home), kill.point]
    before, said = _stamp(home), home.with_suffix(".log")
    with said.open("w") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, cwd=ROOT)
    try:
        in_save = _strike(process, home, kill, before) if kill and not kill.point else False
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired as e:
        raise Failed(f"still there after {PATIENCE} seconds") from e
    finally:
        process.kill()
    if code == -signal.SIGKILL:
        return Death("SIGKILL", _saving(home))
    if code in (128 + signal.SIGTERM, -signal.SIGTERM):  # the second before and after training
        return Death("SIGTERM", in_save)
    if code:
        raise Failed(f"exit code {code}: {' '.join(said.read_text().split())[-600:]}")
    return None


def _saving(home: Path) -> bool:
    """Whether a save is in progress, or was when the run died."""
    return any(home.glob("*/checkpoints/*.orbax-checkpoint-tmp*"))


def _stamp(home: Path) -> int:
    """Changes with metrics.jsonl."""
    rows = home / "metrics.jsonl"
    return rows.stat().st_mtime_ns if rows.exists() else 0


def _strike(process: subprocess.Popen, home: Path, kill: Kill, stamp: int) -> bool:
    """Signal a process from outside; whether a save was in progress."""
    end = time.monotonic() + PATIENCE

    def wait(going_on) -> None:
        while going_on() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)

    for _ in range(kill.changes):
        wait(lambda since=stamp: _stamp(home) == since)
        stamp = _stamp(home)
    time.sleep(kill.delay)
    if kill.in_save:
        wait(lambda: not _saving(home))
        time.sleep(kill.delay / 10)
    in_save = _saving(home)
    process.send_signal(kill.number)
    return in_save
