"""Signals that several processes agree on, and what the process that looks after another one says of its end."""

import io
import signal
import subprocess
import sys

import pytest

from kd_jax.distributed import preemption, processes, supervisor
from tests.conftest import ROOT


def test_several_ask_each_other_every_few_seconds(monkeypatch):
    """A signal to one is known to both at one step, within PACE; the steps at which they ask are the same, those of the
    slower one's clock."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    rounds, clock = [], [0.0]
    noted = [[], []]
    wishes = [
        preemption.StopRequest(own, now=lambda pace=pace: clock[0] * pace)
        for own, pace in zip(noted, (1, 1.25), strict=True)
    ]

    def step_of_both(step):
        """Both take a step; what each brings meets what the other brings."""
        brought = []

        def bring(*numbers):
            brought.append(numbers)
            raise InterruptedError

        monkeypatch.setattr(processes, "all_max", bring)
        asking = []
        for wish in wishes:
            try:
                assert wish(step) is None
            except InterruptedError:
                asking.append(wish)
        assert len(asking) in (0, 2)  # or one of them would wait for ever
        if not asking:
            return [None, None]
        rounds.append(step)
        together = tuple(max(pair) for pair in zip(*brought, strict=True))
        monkeypatch.setattr(processes, "all_max", lambda *numbers: together)
        return [wish(step) for wish in wishes]

    for step in range(1, 400):
        clock[0] += 0.1
        if step == 201:
            noted[1].append(int(signal.SIGTERM))
        said = step_of_both(step)
        if any(said):
            break
    assert said == [signal.SIGTERM] * 2 and 201 <= step <= 201 + preemption.PACE / 0.1
    assert rounds[:5] == [1, 2, 4, 8, 16] and max(b - a for a, b in zip(rounds, rounds[1:], strict=False)) in (39, 40)
    clock[0] += 1
    assert step_of_both(1) == [signal.SIGTERM] * 2  # a new phase starts at 1, and is asked at once


def test_an_echo_is_no_second_signal(monkeypatch):
    """A scheduler signals every process of a job, so that the one that works gets it twice."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(preemption, "ECHO", 3600.0)
    with preemption.stop_on_signal():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(preemption, "ECHO", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # some who run tests ignore it
    try:
        with pytest.raises(KeyboardInterrupt), preemption.stop_on_signal():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


NOISE = b"""E1121 23:52:26.479282   32536 coordination_service.cc:1549] Use error polling
The tasks have crashed.
F1121 23:52:26.480773   32547 client.h:80] Terminating process because the JAX distributed service detected fatal errors
*** Check failure stack trace: ***
"""


@pytest.mark.parametrize(
    ("lines", "code", "ends", "said"),
    [
        (b"process 1 of 4: 1 of 4 devices\n" + NOISE, -6, 1,
         "process 1 of 4: 1 of 4 devices\nerror: process 1 of 4: another process is gone (its sign of life stopped); "
         "started again, all of them resume from the last checkpoint\n"),
        (NOISE, -6, 1, "error: cannot join the other processes: not all came in time; start all of them, with one "
         "--coordinator\n"),
        (NOISE[:80] + b"\nerror: ours\n", 1, 1, "error: ours\n"),  # the runtime was first, and we found it out, too
        (b"a\n" + NOISE[:80] + b"\n", -11, 139, "a\n" + NOISE[:80].decode() + "\n"),  # another end: nothing is lost
        (b"terminate called\n", -6, 134, "terminate called\n"),
        (b"error: x\n", 2, 2, "error: x\n"),
        (b"", -15, 143, ""),
    ],
)  # fmt: skip
def test_what_an_end_means(lines, code, ends, said):
    out = io.BytesIO()
    held = supervisor.Held(out)
    for line in lines.splitlines(keepends=True):
        held.take(line)
    assert held.end(code) == ends and out.getvalue().decode() == said


def test_a_process_that_lives_on_is_heard(monkeypatch):
    out = io.BytesIO()
    held = supervisor.Held(out)
    held.take(NOISE.splitlines(keepends=True)[0])
    assert out.getvalue() == b""
    monkeypatch.setattr(supervisor, "HELD", -1.0)
    held.take(b"later\n")
    assert out.getvalue().endswith(b"polling\nlater\n")


CHILD = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import importlib.util as u  # without the package, whose import takes a second
spec = u.spec_from_file_location("supervisor", sys.argv[1] + "/kd_jax/distributed/supervisor.py")
supervisor = u.module_from_spec(spec)
spec.loader.exec_module(supervisor)
supervisor.work_in_child()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 7), (signal.SIGKILL, -9)])
def test_a_signal_reaches_the_child_and_no_child_is_left(number, code):
    running = subprocess.Popen([sys.executable, "-c", CHILD, str(ROOT)], stdout=subprocess.PIPE, text=True)
    child = int(running.stdout.readline())
    assert child != running.pid
    running.send_signal(number)
    running.communicate(timeout=20)  # ends when the child, too, has let go of its stdout
    assert running.returncode == code
