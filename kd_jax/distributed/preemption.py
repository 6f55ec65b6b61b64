"""SIGTERM, SIGINT and SIGHUP as a request to stop after a step; several processes agree on one step."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kd_jax.distributed import processes
from kd_jax.distributed.parent import SIGNALS

ECHO = 1.0  # seconds within which a second signal is the first one again, sent on by another process
PACE = 5.0  # seconds between two rounds of messages in which several processes ask each other for signals


class Interrupted(Exception):
    """The run was asked to stop and has saved. `number` is the signal's."""

    def __init__(self, number: int, where: str):
        self.number = number
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} at {where}; saved, the same command resumes")


class StopRequest:
    """Whether the run is to stop. Call it after every step: `request(step)` returns the number of a signal, or None.

    A single process looks at its own signals. Several processes ask each other every PACE seconds, all at one step, so
    that a signal to any of them stops all at that step. In each round they agree on the step of the next one.

    Args:
      signals: the numbers of the signals that this process has received; a handler adds to it.
      clock: returns seconds.
    """

    def __init__(self, signals: list[int], clock: Callable[[], float] = time.monotonic):
        self._signals, self._clock = signals, clock
        self._last_step, self._last_time, self._next_step = 0, 0.0, None

    def __call__(self, step: int) -> int | None:
        """The signal that stops all processes at this step, or None."""
        number = self._signals[0] if self._signals else None
        if processes.count() == 1:
            return number
        if self._next_step is not None and self._last_step < step < self._next_step:
            return None
        largest, fewest_steps = processes.all_max(-1 if number is None else number, -self._steps_to_next(step))
        self._last_step, self._last_time, self._next_step = step, self._clock(), step - fewest_steps
        return largest if largest >= 0 else None

    def _steps_to_next(self, step: int) -> int:
        """The number of steps that fit into PACE seconds, at most twice the number between the last two rounds."""
        if self._next_step is None or step <= self._last_step:  # the first step of a phase: it was slow, it compiled
            return 1
        steps, seconds = step - self._last_step, self._clock() - self._last_time
        return max(1, min(2 * steps, int(steps * PACE / max(seconds, 1e-9))))


def silence(stream: int) -> None:
    """Let what is written to a stream, 1 or 2, go nowhere from now on."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Inside this context the first of SIGNALS is only recorded; a second one acts as usual.

    SIGHUP comes when a terminal is closed or a connection to it is lost, often twice: a second one changes nothing, and
    what is printed goes nowhere then. Under nohup it is ignored.

    Yields:
      the StopRequest to call after every step. Outside the main thread, where Python cannot catch signals, it is always
      None for this process.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest(signals)
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    if handlers[signal.SIGHUP] == signal.SIG_IGN:
        del handlers[signal.SIGHUP]
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]
    first_time = 0.0

    def record(number, frame):
        nonlocal first_time
        for stream in terminals if number == signal.SIGHUP else ():
            if not os.isatty(stream):  # any more
                silence(stream)
        if not signals:
            first_time = time.monotonic()
            signals.append(number)
        elif number != signal.SIGHUP and (processes.count() == 1 or time.monotonic() - first_time > ECHO):
            signal.signal(number, handlers[number])
            signal.raise_signal(number)

    for number in handlers:
        signal.signal(number, record)
    try:
        yield StopRequest(signals)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
