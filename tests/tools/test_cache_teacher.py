"""launch/cache_teacher.py as a user types it."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from kd_jax.storage.logit_rows import LogitRows, headers
from tests.conftest import ROOT
from tests.tools.test_cli import SMALL

TEACHER = """
def teacher(num_classes, image_shape):
    return lambda images: images.reshape(len(images), -1)[:, :num_classes]
"""


@pytest.fixture
def command(tmp_path):
    """Runs the script in a folder with a teacher: (exit code, standard output, standard error)."""
    (tmp_path / "mine.py").write_text(TEACHER)

    def run(*flags):
        config = ["--config=kd.py:resnet8,resnet8,smoke", "--config.phases=('student',)", *SMALL]
        config += ["--config.student.teacher=python:mine:teacher"]
        script = [sys.executable, str(ROOT / "launch" / "cache_teacher.py"), *config, *flags]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, env=env)
        return done.returncode, done.stdout, done.stderr

    (tmp_path / "kd.py").write_text("from configs.kd import get_config  # noqa: F401\n")
    return run


def test_its_exit_codes(command, tmp_path):
    cache = f"--config.teacher_cache={tmp_path / 'cache'}"
    code, out, err = command(cache, "--epochs=2")
    assert (code, err) == (0, "") and re.search(r"rows computed, \d+ were there: .*/cache/python-mine-teacher-", out)
    assert command(cache, "--action=verify")[0] == 0
    ((store, header),) = headers(epath.Path(tmp_path / "cache")).items()
    rows = LogitRows(store, "train", key=header["key"], count=header["rows"]["train"], columns=header["columns"])
    numbers = np.concatenate([numbers for numbers, _ in rows.scan()])
    rows.write(numbers[:1], rows.read(numbers[:1])[0] + 1)
    code, out, err = command(cache, "--action=verify")
    assert (code, err) == (1, "error: rows differ from what the teachers say now\n")
    assert f"{len(numbers) - 1} of {len(numbers)} rows are the same" in out
    code, _, err = command("--action=info")
    assert code == 2 and err == "error: config.teacher_cache: empty; name the folder of the cache\n"
