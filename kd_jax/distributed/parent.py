"""A parent process, which has the last word when JAX's runtime aborts the process that works.

The end of process 0 closes its connections, and the runtime then aborts the other processes at once, below its own log.
No handler in an aborted process can run, so a parent waits for it, hands on signals to it, and says what has happened.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys

VARIABLE = "KD_JAX_PARENT"  # in the environment of the child: the parent's process id and the pipe to it
STARTER = "KD_JAX_STARTER"  # of a run that a sweep has started: the sweep's process id
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # which ask a run to save and end
CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
_pipe: int | None = None  # in the child: where the parent reads


def work_in_child() -> None:
    """Go on in a child of this process, which then ends with the child's exit code: returns in the child only."""
    global _pipe
    if VARIABLE in os.environ:
        parent, _pipe = map(int, os.environ.pop(VARIABLE).split(":"))
        _die_with(parent)
        return
    read_end, write_end = os.pipe()
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, VARIABLE: f"{os.getpid()}:{write_end}"},
        pass_fds=[write_end],
    )
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: child.send_signal(number))
    os.close(write_end)
    code = child.wait()
    if -code in CRASHES:
        print(f"error: {_last_word(-code, read_end)}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(code if code >= 0 else 128 - code)


def say_if_cut_off(coordinator: str, message: str) -> None:
    """Leave with the parent, if there is one, what to say if this process is aborted and nobody answers at
    `coordinator`, HOST:PORT of process 0."""
    if _pipe is not None:
        os.write(_pipe, f"{coordinator} {message}\n".encode())


def _last_word(number: int, read_end: int) -> str:
    os.set_blocking(read_end, False)
    try:
        note = os.read(read_end, 4096).decode()
    except BlockingIOError:  # nothing in the pipe, and a process of the child's still holds it
        note = ""
    coordinator, _, message = note.strip().partition(" ")
    if message and number == signal.SIGABRT and not _answers(coordinator):
        return message
    return f"this process crashed ({signal.Signals(number).name}); what stands above may say why"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def die_with_starter() -> None:
    """Have the system kill this process when the sweep that has started it is killed; anywhere else, nothing."""
    if STARTER in os.environ:
        _die_with(int(os.environ.pop(STARTER)))


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent is killed: nobody else would."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    if prctl:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
