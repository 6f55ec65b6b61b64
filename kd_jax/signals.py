"""SIGTERM and SIGINT as a wish that is granted at the next step boundary."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """The run was asked to stop and has saved. `number` is the signal's."""

    def __init__(self, number: int, where: str):
        self.number = number
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} at {where}; saved, the same command resumes")


@contextmanager
def caught() -> Iterator[Callable[[], int | None]]:
    """While inside, the two signals are only noted; the second one acts as it always does.

    Yields a function that returns the noted signal's number, or None. Outside the main thread,
    where Python cannot catch signals, nothing changes.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number, frame):
        noted.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: noted[0] if noted else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
