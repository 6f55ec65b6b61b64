"""Signs of life: each process of a run shows the others that it lives, and ends when one of them is gone.

JAX has a heartbeat, too, but it ends a process by abort(), below pages of log and without a word of ours. This one is
faster, so that it ends the process first, with one line. The signs are numbers in the key-value store of JAX's
coordination service, which process 0 hosts.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
from typing import NoReturn

import jax

KEY = "kd_jax/heartbeat"
BEAT = 2.0  # seconds between two signs
PATIENCE = 30.0  # seconds without a new sign after which a process counts as gone
TICK = 0.5  # seconds between two looks at the signs
LEAVE = 20.0  # seconds that process 0 waits, at most, for the others to end before it
ENDED = "ended"
RESUME = "started again, all of them resume from the last checkpoint"


class Heartbeat:
    """The signs of life of this process and of the others.

    One thread exchanges signs, and is stuck where process 0 does not answer; so another one counts the silence.

    Args:
      store: JAX's client of the coordination service.
      process: which process this is.
      count: how many there are.
    """

    def __init__(self, store, process: int, count: int):
        self._store, self._process, self._count = store, process, count
        self._others = [i for i in range(count) if i != process]
        self._signs = [""] * count  # the last sign of each process
        self._num_signs = [0] * count  # how many different signs each process has given
        self._silence = [0.0] * count  # seconds since the last new one
        self._beats = itertools.count()
        self._farewell = ""  # the last sign of this process, once it ends
        self._farewell_sent, self._hurry, self._stopped = (threading.Event() for _ in range(3))
        self._speaking = threading.Lock()
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in (self._exchange_loop, self._tick_loop)]

    def start(self) -> None:
        """Start the two threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the two threads: Python must not be taken down around them."""
        self._stopped.set()
        self._hurry.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def check_others(self) -> None:
        """Return as soon as every other process has shown that it lives; where one is gone, end this process."""
        before = list(self._num_signs)
        while any(self._num_signs[i] < before[i] + 2 for i in self._others):  # the first may be older than the call
            for i in filter(self._has_ended, self._others):
                self._end(i)
            time.sleep(TICK)

    def leave(self, code: int) -> None:
        """Tell the others that this process ends, and with which exit code. Process 0 lets the others end before it,
        because its end cuts them off: JAX would abort them."""
        self._farewell = f"{ENDED} with exit code {code}"
        self._hurry.set()
        self._farewell_sent.wait(timeout=3)
        for _ in range(int(LEAVE / TICK)):
            if self._process != 0 or all(map(self._has_ended, self._others)):
                return
            time.sleep(TICK)

    def exchange(self) -> None:
        """Give a sign, and take those of the others."""
        sign = self._farewell or str(next(self._beats))
        self._store.key_value_set(f"{KEY}/{self._process}", sign, allow_overwrite=True)
        if self._farewell == sign:
            self._farewell_sent.set()
        for key, sign in self._store.key_value_dir_get(KEY):
            process = int(key.rpartition("/")[2])
            if sign != self._signs[process]:
                self._signs[process] = sign
                self._num_signs[process] += 1
                self._silence[process] = 0.0

    def tick(self) -> None:
        """Count the silence, TICK seconds a call; end this process if another one has been silent for too long. A clock
        would not do: a process that was suspended would find all others silent."""
        for i in range(self._count):
            self._silence[i] += TICK
        if self._farewell:
            return
        if self._silence[self._process] > PATIENCE / 2:  # the store does not even return our own signs
            silent = [0] if self._silence[0] >= PATIENCE else []
        else:
            silent = [i for i in self._others if self._silence[i] >= self._patience(i)]
        if silent:
            self._end(silent[0])

    def _has_ended(self, process: int) -> bool:
        return self._signs[process].startswith(ENDED)

    def _patience(self, process: int) -> float:
        return LEAVE / 2 if process == 0 and self._has_ended(0) else PATIENCE

    def _exchange_loop(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 does not answer: the silence says it
                self.exchange()
            if self._hurry.wait(timeout=BEAT):
                time.sleep(TICK)

    def _tick_loop(self) -> None:
        while not self._stopped.wait(timeout=TICK):
            self.tick()

    def _end(self, lost: int) -> NoReturn:
        """End this process with one line: a process is lost."""
        self._speaking.acquire()  # for ever: the first thread that comes here ends the process
        if self._has_ended(lost):
            reason = f"process {lost} has {self._signs[lost]}, its own message says why"
        else:
            reason = f"process {lost} is gone (no sign of life for {PATIENCE:.0f} seconds)"
        print(f"error: process {self._process} of {self._count}: {reason}; {RESUME}", file=sys.stderr, flush=True)
        os._exit(1)
