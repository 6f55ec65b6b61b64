"""From the command to the first step of the quickstart, and where the time goes.

--rounds starts; the first one finds the compilation cache as it is and fills it, of the others the fastest counts. The
parent starts this file as a child, which puts time stamps around functions of kd_jax and then runs launch/train.py as
it is; the second batch asked for is the end of the first step.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import ROOT, Measured, Table, at_least

COMPILER = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling, or reading from the cache",
}


def flags(parser) -> None:
    parser.add_argument("--rounds", type=int, default=4, help="starts")


def check(flags, parser) -> None:
    at_least(parser, flags, rounds=2)


def measure(flags) -> Measured:
    starts = [_start() for _ in range(flags.rounds)]
    warm = min(starts[1:], key=lambda start: sum(start["stages"].values()))
    rows = [["all, compilation cache as it was", sum(starts[0]["stages"].values())]]
    rows += [["all, compilation cache full", sum(warm["stages"].values())]]
    rows += [[f"of that: {stage}", seconds] for stage, seconds in warm["stages"].items()]
    rows += [[f"in all of these: {what}", seconds] for what, seconds in warm["compiler"].items()]
    return Measured([Table("configs/quickstart.py", ("stage", "seconds"), rows)])


def _start() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stages.json"
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            repr(time.time()),
            str(out),
            str(Path(folder) / "run"),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not out.exists():
            raise SystemExit(f"error: the quickstart did not start: {done.stderr.strip()[-600:]}")
        return json.loads(out.read_text())


def _child(began: float, out: Path, workdir: str) -> None:
    stages, last = {}, began

    def mark(stage: str) -> None:
        nonlocal last
        now = time.time()
        stages[stage] = stages.get(stage, 0.0) + now - last
        last = now

    mark("interpreter")
    import jax

    from kd_jax import data
    from kd_jax.train import batches, run

    mark("imports")
    compiler = dict.fromkeys(COMPILER.values(), 0.0)

    def listen(event: str, seconds: float, **_) -> None:
        if event in COMPILER:
            compiler[COMPILER[event]] += seconds

    jax.monitoring.register_event_duration_secs_listener(listen)

    def staged(function, before: str, stage: str):
        def call(*args, **kwargs):
            mark(before)
            result = function(*args, **kwargs)
            mark(stage)
            return result

        return call

    asked, train = [], batches.Resident.train

    def batch(self, step, *rest):
        mark("first step: batch, compilation, computation" if asked else "programs and initial state")
        if asked:
            out.write_text(json.dumps({"stages": stages, "compiler": compiler}))
            os._exit(0)
        asked.append(step)
        return train(self, step, *rest)

    data.load = staged(data.load, "flags, configuration, devices", "data")
    run.build = staged(run.build, "data", "build: networks, methods, the traced steps")
    batches.Resident.train = batch
    sys.argv = ["launch/train.py", "--config=configs/quickstart.py", f"--workdir={workdir}"]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _child(float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
