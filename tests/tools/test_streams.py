"""What a command does with stdin, stdout, stderr and an early Ctrl-C."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def test_streams_that_are_closed():
    """What a command opens does not get their numbers, to which XLA prints."""
    code = "from kd_jax.tools import cli; cli.main(lambda: print(1 / (open('/dev/null').fileno() > 2)))"
    shell = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    assert subprocess.run(shell, cwd=ROOT).returncode == 0


def test_an_interrupt_before_a_run_looks_at_signals():
    code = "import signal; from kd_jax.tools import cli; signal.signal(2, signal.default_int_handler); "
    code += "cli.main(lambda: signal.raise_signal(2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, "error: stopped by SIGINT\n")


def test_a_terminal_that_cannot_show_a_name():
    code = "from kd_jax.tools import cli; cli.main(lambda: print('folder:\xe9'))"
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
    assert (done.returncode, done.stdout) == (0, "folder:\\xe9\n"), done.stderr
