"""What a terminal shows of a run, and that nothing else is shown where there is none."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from kd_jax.storage import progress
from kd_jax.storage.progress import Later, Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds on the clock, to be set."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@contextmanager
def terminal(monkeypatch):
    """A pseudo-terminal of 80 columns in place of both outputs; gives what reads the lines that it has been sent."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def lines() -> list[str]:
        print("END", file=file, flush=True)
        sent = b""
        while b"END" not in sent:
            sent += os.read(main, 65536)
        parts = re.split(r"[\r\n]|\x1b\[A", sent.partition(b"END")[0].decode())
        return [part.strip() for part in parts if part.strip()]

    with os.fdopen(side, "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        patch.setattr(sys, "stdout", file)
        yield lines
    os.close(main)


def run(clock, later):
    with Progress("kd", 100, 200, later) as bar:
        clock.seconds = 50.0
        bar.advance(150, loss=1.25)
        bar.line(150, 3.0, 4.0, "test loss 0.5000  top-1 61.00%  agreement 70.00%", "top-1 61.00%")
        clock.seconds = 75.0
        bar.advance(175, loss=1.0)


TESTED = "test, epoch 3: top-1 61.00%"


@pytest.mark.parametrize(("later", "expected"), [
    (Later(), ["about 0:00:50 left", f"about 0:00:50 left; {TESTED}", f"about 0:00:25 left; {TESTED}"]),
    (Later(seconds=3600, steps=60), ["about 1:01:50 left", f"about 1:01:50 left; {TESTED}"]),
    (Later(steps=10, unknown=2), [f"at least 0:01:00 left, 2 not counted; {TESTED}"]),
])  # fmt: skip
def test_a_terminal_has_the_time_of_all_phases_and_the_last_test(clock, monkeypatch, later, expected):
    with terminal(monkeypatch) as lines:
        run(clock, later)
        sent = lines()
    assert {f"all phases: {line}" for line in expected} <= set(sent)
    assert any(re.match(r"kd: +88%.*175/200.*loss=1\b", line) for line in sent)
    assert "kd: epoch 3/4  test loss 0.5000  top-1 61.00%  agreement 70.00%  left 0:00:50" in sent
    assert all(len(line) <= 80 for line in sent)


def test_nothing_but_the_line_where_there_is_no_terminal(clock, capsys):
    run(clock, Later(unknown=1))
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == "kd: epoch 3/4  test loss 0.5000  top-1 61.00%  agreement 70.00%  left 0:00:50\n"


def test_an_error_leaves_the_terminal_clean(clock, monkeypatch):
    with terminal(monkeypatch) as lines:
        with pytest.raises(RuntimeError), Progress("kd", 0, 10) as bar:
            bar.advance(5)
            raise RuntimeError
        lines()
        progress.log_line("after")
        assert lines() == ["after"]  # no bar is drawn again
