"""The parent of a process that works: what it says of an abort, and that signals reach the child."""

import signal
import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CHILD = """
import os, signal, sys, time
import importlib.util as u  # without the package, whose import takes a second
spec = u.spec_from_file_location("parent", sys.argv[1] + "/kd_jax/distributed/parent.py")
parent = u.module_from_spec(spec)
spec.loader.exec_module(parent)
parent.work_in_child()
"""
WAIT = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
time.sleep(60)
"""


def command(work, *args):
    return [sys.executable, "-c", CHILD + work, str(ROOT), *args]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 7), (signal.SIGKILL, -9)])
def test_a_signal_reaches_the_child_and_no_child_is_left(number, code):
    running = subprocess.Popen(command(WAIT), stdout=subprocess.PIPE, text=True)
    child = int(running.stdout.readline())
    assert child != running.pid
    running.send_signal(number)
    running.communicate(timeout=60)  # ends when the child, too, has let go of its stdout
    assert running.returncode == code


@pytest.mark.parametrize(("work", "code"), [("sys.exit(0)", 0), ("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_is_the_childs(work, code):
    done = subprocess.run(command(work), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("answers", [True, False])
def test_an_abort_is_blamed_on_process_0_only_if_that_is_gone(answers):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if answers:
            listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        work = "print('prose', file=sys.stderr); parent.say_if_cut_off(sys.argv[2], 'it is gone'); os.abort()"
        done = subprocess.run(command(work, address), capture_output=True, text=True)
    last = "this process crashed (SIGABRT); what stands above may say why" if answers else "it is gone"
    assert (done.returncode, done.stderr) == (1, f"prose\nerror: {last}\n")


@pytest.mark.parametrize("crash", ["SIGABRT", "SIGSEGV"])
def test_a_crash_of_its_own(tmp_path, crash):
    """Nothing was left with the parent; a process that the child has left behind still holds the pipe."""
    work = "import subprocess; subprocess.Popen(['sleep', '30'], close_fds=False); "
    work += f"os.kill(os.getpid(), signal.{crash})"
    with open(tmp_path / "err", "w+") as err:  # not a pipe, whose end would be awaited
        done = subprocess.run(command(work), stdout=err, stderr=err)
        err.seek(0)
        message = err.read()
    assert (done.returncode, message) == (1, f"error: this process crashed ({crash}); what stands above may say why\n")
