"""One of several processes does its work in a child, so that the loss of another one is told in one line.

JAX's runtime ends a process that has lost the others by abort(), below pages of its own log, and takes no call-back
from Python that could speak first. So this process looks after a child that does the work: it hands on signals, holds
back what the runtime says of lost processes, and says what it means.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time

CHILD = "KD_JAX_PARENT"  # in the child's environment: the process that looks after it
HELD = 60.0  # seconds after which the runtime's words are let through, for a process that lives on is not lost
RUNTIME = re.compile(rb"[IWEF]\d{4} \S+ +\d+ (coordination_service|preemption_sync_manager|client\.(h|cc))")
FATAL = b"distributed service detected fatal errors"
NAME = re.compile(rb"process \d+ of \d+")


class Held:
    """The child's stderr on its way to ours, less what the runtime says of lost processes; that is kept."""

    def __init__(self, out):
        self.name, self.kept = "", []
        self._out, self._since = out, 0.0

    def take(self, line: bytes) -> None:
        if not self.name and (named := NAME.match(line)):
            self.name = named.group().decode()
        if self.kept and time.monotonic() - self._since > HELD:
            self.release()
        if not self.kept and not RUNTIME.match(line):
            self._write(line)
            return
        self._since = self._since if self.kept else time.monotonic()
        self.kept.append(line)

    def release(self) -> None:
        """Let the kept lines through."""
        self._write(b"".join(self.kept))
        self.kept = []

    def end(self, code: int) -> int:
        """What the end of the child means: our line where the runtime ended it, all that was kept otherwise.

        Args:
          code: as Popen has it, negative for a signal.

        Returns:
          The exit code for this process.
        """
        kept = b"".join(self.kept)
        if code == -signal.SIGABRT and FATAL in kept:
            self.kept = []
            self._write(f"error: {self._gone(kept)}\n".encode())
            return 1
        ours = [line for line in self.kept if line.startswith(b"error: ")]
        self.kept = ours if code > 0 and ours else self.kept
        self.release()
        return code if code >= 0 else 128 - code

    def _gone(self, kept: bytes) -> str:
        if not self.name:  # the runtime never got as far as telling us who we are
            return "cannot join the other processes: not all came in time; start all of them, with one --coordinator"
        return (
            f"{self.name}: another process is gone (its sign of life stopped); "
            "started again, all of them resume from the last checkpoint"
        )

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._out.flush()


def work_in_child() -> None:
    """Go on in a child of this process, which then ends with the child's exit code: returns in the child only."""
    if CHILD in os.environ:
        _die_with(int(os.environ.pop(CHILD)))
        return
    command = [sys.executable, *sys.orig_argv[1:]]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, CHILD: str(os.getpid())})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, frame: child.send_signal(n))
    held = Held(sys.stderr.buffer)
    reader = threading.Thread(target=lambda: [held.take(line) for line in child.stderr], daemon=True)
    reader.start()
    code = child.wait()
    reader.join(timeout=2)  # no longer: a process that the child left behind may hold its stderr
    code = held.end(code)
    sys.stdout.flush()
    os._exit(code)


def _die_with(parent: int) -> None:
    """Have the system end this process when its parent has been killed: nobody else would."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    if prctl:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
