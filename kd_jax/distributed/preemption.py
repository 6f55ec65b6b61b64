"""SIGTERM and SIGINT as a wish that is granted at the next step boundary, of several processes at one that they
agree on."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kd_jax.distributed import processes

ECHO = 1.0  # seconds within which a signal that comes again is the same one, on its way through another process
PACE = 5.0  # seconds between two questions of several processes to each other; each is a round of messages


class Interrupted(Exception):
    """The run was asked to stop and has saved. `number` is the signal's."""

    def __init__(self, number: int, where: str):
        self.number = number
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} at {where}; saved, the same command resumes")


class StopRequest:
    """Whether the run is to stop, asked after every step: `wish(step)` is a signal's number, or None.

    One process knows at once. Several ask each other every few seconds, at steps that all of them know: a signal to
    any of them stops all at one step. How many steps that is they agree on when they ask.
    """

    def __init__(self, noted: list[int], now: Callable[[], float] = time.monotonic):
        self._noted, self._now = noted, now
        self._asked = self._next = None

    def __call__(self, step: int) -> int | None:
        own = self._noted[0] if self._noted else None
        if processes.count() == 1:
            return own
        if self._next is not None and self._asked[0] < step < self._next:
            return None
        asked = processes.all_max(-1 if own is None else own, -self._steps(step))
        self._asked, self._next = (step, self._now()), step - asked[1]
        return asked[0] if asked[0] >= 0 else None

    def _steps(self, step: int) -> int:
        """How many steps to take until the next question: as many as fit, at most twice as many as the last time."""
        if self._next is None or step <= self._asked[0]:  # the first step of a phase: it compiled
            return 1
        taken, seconds = step - self._asked[0], self._now() - self._asked[1]
        return max(1, min(2 * taken, int(taken * PACE / max(seconds, 1e-9))))


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """While inside, the two signals are only noted; the second one acts as it always does.

    Yields what is asked after every step. Outside the main thread, where Python cannot catch signals, this process
    never gets one.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest(noted)
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    since = 0.0

    def note(number, frame):
        nonlocal since
        if not noted:
            since = time.monotonic()
            noted.append(number)
        elif processes.count() == 1 or time.monotonic() - since > ECHO:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield StopRequest(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
