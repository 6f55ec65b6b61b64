"""Two processes that fill one cache."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.train.cached import assert_same_student


@pytest.mark.full
def test_two_processes_that_fill_a_cache_at_once_end_identical(tmp_path):
    """Networks and images of their usual size: as many epochs, the same command but for the folder."""
    flags = [
        "--config=configs/kd.py:resnet8,resnet8,smoke", "--config.student.steps=24", "--config.log.every=8",
        "--config.teacher_check=False",
    ]  # fmt: skip
    command = [sys.executable, "launch/train.py", *flags]
    at_once = [
        subprocess.Popen([*command, f"--workdir={tmp_path / name}", f"--config.teacher_cache={tmp_path / 'cache'}"],
                         cwd=ROOT, env=os.environ)
        for name in ("one", "two")
    ]  # fmt: skip
    assert [run.wait(timeout=600) for run in at_once] == [0, 0]
    subprocess.run([*command, f"--workdir={tmp_path / 'live'}"], cwd=ROOT, check=True, timeout=600)
    for name in ("one", "two"):
        assert_same_student(tmp_path / "live", tmp_path / name)
