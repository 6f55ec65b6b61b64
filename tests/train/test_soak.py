"""The soak in short: see benchmarks/soak.py."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def soak(*flags):
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.full
def test_three_random_kills():
    done = soak("--kills=3", "--seed=43")  # SIGKILL, SIGKILL within a save, SIGTERM, on any machine
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    match = re.fullmatch(
        r"kills: 3 \(SIGKILL (\d+), SIGTERM (\d+); (\d+) during a save\), runs: (\d+), identical: (\d+) of (\d+)", last
    )
    assert match, last
    killed, stopped, in_save, runs, same, of = map(int, match.groups())
    assert (killed, stopped) == (2, 1) and in_save <= 3 and runs == same == of >= 1
    assert done.stdout.count("/3 run ") == 3 and done.stdout.count(": identical\n") == runs


@pytest.mark.parametrize(("flag", "says"), [("--kills=0", "--kills=0: must be"), ("--jobs=9", "invalid choice: 9")])
def test_wrong_flags(flag, says):
    done = soak(flag)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
