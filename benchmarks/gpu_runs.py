"""Parts of benchmarks/gpu.py that are whole runs: cached, seeds, calls, resume, whole."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "stand_ins"))  # last: the real ones go first

import jax  # noqa: E402
import numpy as np  # noqa: E402

import gpu_parts  # noqa: E402
import runs  # noqa: E402
from kd_jax.distributed import preemption  # noqa: E402
from kd_jax.train import report, run  # noqa: E402
from kd_jax.train.phase_storage import PhaseStorage  # noqa: E402
from worker import NotAvailable  # noqa: E402

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def without_reports() -> None:
    """Runs write no report: its pictures need a package that may be missing."""
    report.write = lambda *args: None


def _size(bench, epochs: int = 3) -> runs.Size:
    return runs.Size(bench.pair, bench.size(64, 4), bench.size(32, 8), bench.size(6400, 8), epochs)


def _teacher(bench) -> str:
    """A teacher that the parts share."""
    folder = bench.scratch / "teacher"
    if not (folder / "summary.json").exists():
        runs.trained_teacher(_size(bench), folder)
    return f"checkpoint:{folder / 'teacher'}"


def _ms(bench, method: str, **keys) -> float:
    size = _size(bench)
    return 1e3 * runs.timed_run(runs.recipe(size, method, _teacher(bench), **keys), size.steps).seconds


def cached(bench) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = {"cold cache": folder, "warm cache": folder}

        def measure(name: str) -> dict:
            more = {"teacher_cache": keys[name]} if name in keys else {}
            return {"ms a step": _ms(bench, "" if name == "student alone" else "kd", **more)}

        bench.each(measure)


def seeds(bench) -> None:
    ms = {}

    def measure(count: int) -> dict:
        ms[count] = _ms(bench, "kd", **({"seeds": count} if count > 1 else {}))
        return {"ms a step": ms[count]} | ({"of separate runs": ms[count] / (count * ms[1])} if 1 in ms else {})

    bench.each(measure)


def calls(bench) -> None:
    bench.each(lambda count: {"ms a step": _ms(bench, "kd", steps_per_call=str(count))})


def resume(bench) -> None:
    """An unbroken run and one that is killed and resumed, each a process, with deterministic operations."""
    size = runs.Size(
        "resnet8,resnet8" if bench.tiny else "resnet20,resnet8", bench.size(64, 4), bench.size(32, 8), 0, 1
    )
    size = size._replace(examples=8 * size.batch, epochs=5)
    teacher = runs.trained_teacher(size, bench.scratch / "small-teacher")
    config = runs.recipe(size, "skd", teacher, checkpoint__every=size.steps)

    def measure(_: str) -> dict:
        free = _one_run(bench, config, size.steps, "free", {})
        unbroken = _one_run(bench, config, size.steps, "unbroken", _deterministic())
        _one_run(bench, config, size.steps, "killed", _deterministic(), kill=3)
        _one_run(bench, config, size.steps, "killed", _deterministic())
        leaves, others = (_leaves(bench.scratch / name) for name in ("unbroken", "killed"))
        differ = sum(not np.array_equal(leaves[path], others.get(path)) for path in leaves)
        differ += len(others.keys() - leaves.keys())
        values = {"leaves": len(leaves), "leaves that differ": differ}
        return values | {"ms a step, deterministic": unbroken, "ms a step": free}

    bench.each(measure)


def _deterministic() -> dict:
    flags = os.environ.get("XLA_FLAGS", "")
    return {"XLA_FLAGS": f"{flags} {DETERMINISTIC}".strip()} if jax.default_backend() == "gpu" else {}


def _one_run(bench, config: dict, steps: int, name: str, env: dict, kill: int = 0) -> float | None:
    """Milliseconds of a step of a run in a process of its own, which kills itself at the `kill`th log row."""
    asked = json.dumps({"config": config, "folder": str(bench.scratch / name), "steps": steps, "kill": kill})
    command = [sys.executable, str(Path(__file__).resolve()), asked]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **env}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=max(bench.left(), 1) + 10)
    except subprocess.TimeoutExpired as e:
        raise NotAvailable(f"the {name} run was not done in the time that was left") from e
    if kill and done.returncode == -signal.SIGKILL:
        return None
    if done.returncode or kill:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"{name}: exit code {done.returncode}: {lines[-1] if lines else ''}")
    return float(done.stdout.strip().splitlines()[-1])


def _child(asked: dict) -> None:
    """A run of `resume`, in this process."""
    without_reports()
    check, count = PhaseStorage.stop_if_not_finite, 0

    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        if count == asked["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return check(*args, **kwargs)

    PhaseStorage.stop_if_not_finite = counted
    print(1e3 * runs.timed_run(asked["config"], asked["steps"], Path(asked["folder"])).seconds)


def _leaves(folder: Path) -> dict[str, np.ndarray]:
    """Path -> array of all that a phase's last checkpoint holds, as Orbax alone reads it."""
    import orbax.checkpoint as ocp

    steps = [int(p.name) for p in (folder / "student" / "checkpoints").iterdir() if p.name.isdigit()]
    last, arrays = folder / "student" / "checkpoints" / str(max(steps)), {}
    for item in ("network", "training"):
        tree = ocp.StandardCheckpointer().restore(last / item)
        pairs = jax.tree_util.tree_leaves_with_path(tree)
        arrays |= {f"{item}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in pairs}
    return arrays


def whole(bench) -> None:
    """240 epochs, until the time is over; a line after every epoch, the last one counts."""
    size = runs.Size(bench.pair, bench.size(64, 4), bench.size(32, 8), bench.size(50_000, 16), 240)
    config = runs.recipe(size, "skd", _teacher(bench))
    config["eval"]["every"], config["checkpoint"]["every"], config["log"]["every"] = 1, 0, 50
    config["data"]["synthetic"]["test"] = bench.size(10_000, 8)
    marks = []

    def watch(step: int) -> int | None:
        if step > 1 and step % size.steps == 1:  # an epoch's test and save are over; the first epoch compiles
            marks.append((step, time.monotonic()))
            if len(marks) > 1:
                bench.write(row={"run": "skd"}, values=_projected(marks, size))
        return signal.SIGTERM if bench.left() < 5 else None

    with _stops(watch), tempfile.TemporaryDirectory() as folder:
        try:
            run.run(config, str(Path(folder) / "run"))
        except preemption.Interrupted as e:
            print(e, file=sys.stderr)
    if len(marks) < 2:
        raise NotAvailable("not two epochs were done in the time that was left")


def _projected(marks: list[tuple[int, float]], size: runs.Size) -> dict:
    (first, began), (last, now) = marks[0], marks[-1]
    seconds = (now - began) / (last - first)
    epoch = seconds * size.steps
    values = {"steps": last, "ms a step": seconds * 1e3, "images/s": size.batch / seconds}
    return values | {"seconds an epoch, test and save included": epoch, gpu_parts.HOURS: epoch * size.epochs / 3600}


@contextmanager
def _stops(watch):
    """While inside, runs ask `watch` after every step, not for signals."""
    before = preemption.stop_on_signal

    @contextmanager
    def stop_on_signal():
        yield watch

    preemption.stop_on_signal = stop_on_signal
    try:
        yield
    finally:
        preemption.stop_on_signal = before


PARTS = {"cached": cached, "seeds": seeds, "calls": calls, "resume": resume, "whole": whole}

if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
