"""The progress shown to a person: a bar, and lines."""

import sys
import time

from tqdm import tqdm

from kd_jax.distributed import processes


class Progress:
    """A bar with rate and time left on a terminal; elsewhere one line an evaluation."""

    def __init__(self, phase: str, start: int, steps: int):
        self._bar = tqdm(
            total=steps,
            initial=start,
            desc=phase,
            unit="step",
            file=sys.stderr,
            disable=not (sys.stderr.isatty() and processes.is_main()),
            leave=False,
        )
        self._phase, self._start, self._steps, self._since = phase, start, steps, time.monotonic()

    def advance(self, step: int, **shown: float) -> None:
        """Move to `step`, with a few numbers beside the bar."""
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()})

    def line(self, step: int, epoch: float, epochs: float, measured: str) -> None:
        """One printed line for an evaluation."""
        left = (time.monotonic() - self._since) / max(step - self._start, 1) * (self._steps - step)
        log_line(f"{self._phase}: epoch {epoch:g}/{epochs:g}  {measured}  left {_clock(left)}")

    def close(self) -> None:
        self._bar.close()


def log_line(text: str) -> None:
    """Print a line without breaking a progress bar. Of several processes the first one speaks."""
    if not processes.is_main():
        return
    with tqdm.external_write_mode(file=sys.stdout):
        print(text, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
