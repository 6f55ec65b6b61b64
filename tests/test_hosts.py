"""Two processes with two devices each run a recipe as one process with four does; a lost one ends the other."""

import json
import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from kd_jax import InputError, hosts
from kd_jax.evaluate import saved
from tests.conftest import ROOT

# every method of ours at once: SFTN's branches, SKD, SoKD's search; ten steps, rates at which nothing runs away
RECIPE = [
    "--config=configs/compose.py:sftn+skd+sokd,resnet8,resnet8,smoke",
    *(f"--config.data.synthetic.{k}={v}" for k, v in {"size": 8, "classes": 5, "train": 40, "test": 13}.items()),
    *(f"--config.{phase}.steps=10" for phase in ("teacher", "student")),
    *(f"--config.{phase}.optim.lr=0.01" for phase in ("teacher", "student")),
    "--config.student.terms.fitnet.weight=1.0",
    "--config.student.refine.dafa.stages=2",
]


def start(workdir, *more, devices, log=None, recipe=RECIPE):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, str(ROOT / "launch" / "train.py"), *recipe, f"--workdir={workdir}", *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
    )


def together(workdir, **kwargs):
    """Two processes that know of each other."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [start(workdir, *flags, f"--process_id={i}", devices=2, **kwargs) for i in range(2)]


def end(*running, timeout=400):
    """Exit code and output of every process."""
    said = [p.communicate(timeout=timeout)[0] for p in running]
    return [p.returncode for p in running], said


def far(a, b):
    flat = [np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)]) for t in (a, b)]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0])


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    codes, said = end(start(one, devices=4))
    assert codes == [0], said[0][-3000:]
    codes, said = end(*together(two))
    assert codes == [0, 0], said[0][-3000:] + said[1][-3000:]
    return {"one": one, "two": two, "said": said}


def test_two_processes_are_one_with_as_many_devices(homes):
    for phase in ("teacher", "student"):
        (_, ours, a), (_, theirs, b) = (saved(str(homes[name]), phase=phase) for name in ("one", "two"))
        assert a == b == 10 and far(ours, theirs) < 1e-4
    rows = [[json.loads(line) for line in (homes[n] / "metrics.jsonl").open()] for n in ("one", "two")]
    assert [(r["phase"], r["step"], r["split"]) for r in rows[0]] == [
        (r["phase"], r["step"], r["split"]) for r in rows[1]
    ]
    for a, b in zip(*rows, strict=True):
        if a["split"] == "test":  # counts
            assert (a["top1"], a["top5"]) == (b["top1"], b["top5"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_one_process_speaks(homes):
    assert "| student | resnet8 |" in homes["said"][0] and "student" not in homes["said"][1]
    summary = json.loads((homes["two"] / "summary.json").read_text())
    assert summary["device"]["count"] == 4
    assert (homes["two"] / "student" / "maps.png").exists()


@pytest.mark.full
def test_a_lost_process_ends_the_other_and_both_resume(tmp_path):
    recipe = ["--config=configs/kd.py:resnet8,resnet8,smoke", *RECIPE[1:5], "--config.log.every=5"]
    running = together(tmp_path, recipe=[*recipe, "--config.teacher.steps=100000"])
    rows = tmp_path / "metrics.jsonl"
    for _ in range(300):
        time.sleep(1)
        if rows.exists() and len(rows.read_text().splitlines()) > 3:
            break
    running[1].kill()
    codes, said = end(*running, timeout=60)
    assert codes[0] != 0 and "another" in said[0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("localhost:1",), "--num_processes, --process_id: missing; the three go together"),
        (("", 2, 0), "--coordinator: missing"),
        (("localhost:1", 2, 2), "--process_id=2: must be below --num_processes=2"),
    ],
)
def test_wrong_flags(given, told):
    with pytest.raises(InputError, match=told):
        hosts.connect(*given)


def test_one_process_is_itself(monkeypatch):
    for name in hosts.SIGNS:
        monkeypatch.delenv(name, raising=False)
    hosts.connect()
    assert hosts.first() and hosts.count() == 1 and hosts.agree(3) == 3 and hosts.agree(None) is None
    with pytest.raises(KeyError):
        hosts.by_first(lambda: {}["no"])
