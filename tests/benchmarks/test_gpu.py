"""benchmarks/gpu.py goes on after a part that fails, hangs or dies, and its recipes need no ml_collections."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

METHODS = ("kd", "skd", "dkd", "reviewkd", "crd", "sftn", "sokd")
RECIPES = """
import json, sys
sys.path.insert(0, {first!r})
import ml_collections
from configs import compose
trees = {{m: compose.get_config(f"{{m}},resnet32x4,resnet8x4").to_dict() for m in {methods!r}}}
print(json.dumps([ml_collections.__file__, trees]))
"""
FAULTY = """
import sys, time, os
sys.path.insert(0, {benchmarks!r})
import gpu_worker
def run_part(bench, part, seconds):
    bench.part = part
    if part == "step":
        time.sleep(60)
    if part == "shares":
        os._exit(7)
    if part == "cached":
        bench.fail(ValueError("broken"))
    else:
        bench.write(row={{}}, values={{"ms": 1.0}})
gpu_worker.run_part = run_part
gpu_worker.environment = lambda bench: None
gpu_worker.main()
"""


def recipes(first):
    command = [sys.executable, "-c", RECIPES.format(first=str(first), methods=METHODS)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_stand_in_gives_the_same_recipes():
    path, stood_in = recipes(ROOT / "benchmarks" / "stand_ins")
    assert path.endswith("stand_ins/ml_collections.py")
    path, real = recipes(ROOT)
    assert "stand_ins" not in path and stood_in == real and set(real) == set(METHODS)


@pytest.mark.full  # processes of its own
def test_a_part_that_hangs_dies_or_fails_does_not_stop_the_next(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    script = tmp_path / "faulty.py"
    script.write_text(FAULTY.format(benchmarks=str(ROOT / "benchmarks")))
    make = gpu.Child.__init__

    def faulty(self, flags, scratch):
        make(self, flags, scratch)
        self._command[1] = str(script)

    monkeypatch.setattr(gpu.Child, "__init__", faulty)
    parts = "--parts=equal,step,shares,cached,seeds"
    monkeypatch.setattr(sys, "argv", ["gpu.py", f"--out={tmp_path}", "--minutes=0.1", "--grace=1", parts])
    assert gpu.main() == 1
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    results = {line["part"]: line.get("error", "measured") for line in lines}
    assert list(results) == ["equal", "step", "shares", "cached", "seeds"]
    assert results["equal"] == results["seeds"] == "measured" and results["step"].startswith("killed: ")
    assert results["shares"] == "its process died with exit code 7" and results["cached"] == "ValueError: broken"


@pytest.mark.full
def test_numbers_are_equal_and_a_kill_changes_no_bit(tmp_path):
    """Two parts of the rehearsal, in real."""
    flags = ["--minutes=12", "--tiny", "--parts=equal,resume", f"--out={tmp_path}"]
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert not [line for line in lines if "error" in line]
    equal = [line["values"] for line in lines if line["part"] == "equal"]
    assert len(equal) == 5 and all(value < 1e-3 for values in equal for value in values.values())
    (resumed,) = (line["values"] for line in lines if line["part"] == "resume")
    assert resumed["leaves"] > 20 and resumed["leaves that differ"] == 0
