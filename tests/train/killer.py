"""Run a recipe, and die by SIGKILL, or get another signal, at a chosen point.

python -m tests.train.killer CONFIG.json WORKDIR POINT [tiny]
with tiny for tests/tiny.py's network as resnet8, and POINT one of
train:N     before the N-th training step of this process
save:N:MS   MS milliseconds into the N-th save
term:N      SIGTERM before the N-th training step, likewise int:N
hangup:N    say so before the N-th training step, on a terminal, and wait for the test to close it
pause:N     say so and sleep before the N-th training step
done        just after the first phase is marked as done
report      while the report is written
seconds:S   S seconds after the start of the interpreter's main program
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import nullcontext


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_hangup():
    print("waiting", flush=True)
    while os.isatty(1):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGHUP)  # a shell says it too


def nth(n, function, act):
    count = 0

    def wrapped(*args, **kwargs):
        nonlocal count
        count += 1
        if count == n:
            act()
        return function(*args, **kwargs)

    return wrapped


def arm(point):
    kind, *numbers = point.split(":")
    if kind == "seconds":
        threading.Timer(float(numbers[0]), die).start()
        return
    from kd_jax.storage import checkpoints
    from kd_jax.train import phase, report

    acts = {
        "train": die,
        "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "int": lambda: os.kill(os.getpid(), signal.SIGINT),
        "hangup": wait_for_hangup,
        "pause": lambda: (print("paused", flush=True), time.sleep(600)),
    }
    if kind == "hangup":
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs the tests may ignore it
        os.open(os.ttyname(1), os.O_RDWR)  # the process has a session of its own: this is its terminal now
    if kind in acts:
        resident = phase.Resident
        resident.train = nth(int(numbers[0]), resident.train, acts[kind])
    elif kind == "save":
        later = threading.Timer(float(numbers[1]) / 1000, die)
        checkpoints.Checkpoints.save = nth(int(numbers[0]), checkpoints.Checkpoints.save, later.start)
    elif kind == "done":
        result = phase.PhaseRun.result
        phase.PhaseRun.result = lambda self, later: (result(self, later), die())
    elif kind == "report":
        report.write = die


if __name__ == "__main__":
    config, workdir, point, *network = sys.argv[1:]
    arm(point)
    from kd_jax.tools import cli
    from kd_jax.train import run
    from tests import tiny

    with open(config) as file:
        tree = json.load(file)
    sys.argv = sys.argv[:1]
    with tiny.in_place() if network == ["tiny"] else nullcontext():
        cli.main(lambda: run.run(tree, workdir))
