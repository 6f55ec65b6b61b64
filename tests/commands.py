"""The commands of launch/, each in a process of its own, forked from one that has imported what they import."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["kd_jax.train.dry_run", "kd_jax.interop.exchange", "sklearn.datasets"])


def launch(name: str, *args: str, cwd=ROOT) -> subprocess.CompletedProcess:
    """`python launch/NAME.py ARGS`: as `subprocess.run` with its output captured as text."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, stream) for stream in ("out", "err")]
        process = FORKS.Process(target=_work, args=(name, args, str(cwd), outputs))
        process.start()
        process.join()
        said = [Path(output).read_text() for output in outputs]
    return subprocess.CompletedProcess([name, *args], process.exitcode, *said)


def launch_fresh(name: str, *args: str, **variables: str) -> subprocess.CompletedProcess:
    """The same in a fresh process, for variables of the environment that are read when packages are imported."""
    command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **variables})


def _work(name: str, args: tuple[str, ...], folder: str, outputs: list[str]) -> None:
    for number, output in enumerate(outputs, 1):
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    script = str(ROOT / "launch" / f"{name}.py")
    sys.argv[:] = [script, *args]
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")
