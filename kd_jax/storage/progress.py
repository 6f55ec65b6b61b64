"""The progress shown to a person: a bar, and lines."""

import errno
import sys
import time
from typing import NamedTuple

from tqdm import tqdm

from kd_jax.distributed import processes


class Later(NamedTuple):
    """What a run does after a phase. seconds: of the phases of which a step's time is known. steps: of those whose
    steps take as long as the phase's own. unknown: how many others there are."""

    seconds: float = 0.0
    steps: int = 0
    unknown: int = 0


NOTHING_LATER = Later()


class Progress:
    """On a terminal a bar of the phase, and below it a line with the time left of all phases and the last test;
    anywhere one printed line an evaluation. A context manager closes it."""

    def __init__(self, phase: str, start: int, steps: int, later: Later = NOTHING_LATER):
        how = {"file": sys.stderr, "disable": not (sys.stderr.isatty() and processes.is_main()), "leave": False}
        self._bar = tqdm(total=steps, initial=start, desc=phase, unit="step", dynamic_ncols=True, **how)
        self._below = tqdm(bar_format="{desc}", position=1, dynamic_ncols=True, **how)
        self._phase, self._start, self._steps, self._since = phase, start, steps, time.monotonic()
        self._later, self._tested = later, ""

    def advance(self, step: int, **shown: float) -> None:
        """Move to `step`, with a few numbers beside the bar."""
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()})
        self._show_below(step)

    def line(self, step: int, epoch: float, epochs: float, measured: str, headline: str) -> None:
        """One printed line for an evaluation. headline: the part of what was measured that stays on a terminal."""
        left = _clock(self._seconds_per_step(step) * (self._steps - step))
        log_line(f"{self._phase}: epoch {epoch:g}/{epochs:g}  {measured}  left {left}")
        self._tested = f"; test, epoch {epoch:g}: {headline}"
        self._show_below(step)

    def _seconds_per_step(self, step: int) -> float:
        """By the steps that this process has taken, what stands between them included."""
        return (time.monotonic() - self._since) / max(step - self._start, 1)

    def _show_below(self, step: int) -> None:
        later = self._later
        left = _clock(self._seconds_per_step(step) * (self._steps - step + later.steps) + later.seconds)
        time_left = f"at least {left} left, {later.unknown} not counted" if later.unknown else f"about {left} left"
        self._below.set_description_str(f"all phases: {time_left}{self._tested}")

    def close(self) -> None:
        """Take it off the terminal."""
        self._below.close()
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self.close()


def log_line(text: str) -> None:
    """Print a line without breaking a progress bar, unless the terminal is gone. Of several processes the first one
    speaks."""
    if not processes.is_main():
        return
    try:
        with tqdm.external_write_mode(file=sys.stdout):
            print(text, flush=True)
    except OSError as e:
        if e.errno != errno.EIO:
            raise


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
