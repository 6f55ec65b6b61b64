"""Parts of benchmarks/gpu.py about single steps: equal, step, shares."""

import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import numpy as np

import gpu_parts
import programs
from kd_jax import engine
from kd_jax.engine.loop import normalized
from kd_jax.engine.step import select_outputs
from kd_jax.models.network import normalize
from worker import NotAvailable, Worker, rounds

PRECISIONS = {"float32": "highest", "tf32": "default", "bf16": "default"}  # of matrix products and convolutions
REPEAT, ROUNDS = 20, 5


def equal(bench) -> None:
    """One step from one state, by the run's program on the device and by the pure functions on the CPU; the methods at
    the same time, for nothing is timed."""
    pair, batch, image = bench.pair if bench.tiny else "resnet20,resnet8", bench.size(16, 4), bench.size(32, 8)
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        with ThreadPoolExecutor(len(gpu_parts.EQUAL)) as pool:
            methods = dict.fromkeys(name.partition(" ")[0] for name in gpu_parts.EQUAL)
            futures = {method: pool.submit(_differences, pair, batch, image, method) for method in methods}
            bench.each(lambda name: futures[name.partition(" ")[0]].result()["policy" in name])
    finally:
        jax.config.update("jax_default_matmul_precision", None)


def _differences(pair: str, batch: int, image: int, method: str) -> list[dict]:
    """Relative differences of loss and update after the training step and, where there is one, the policy step."""
    if method == "sftn":
        prepared = programs.prepare_sftn(pair, batch, image)
        plan, teacher = prepared.plans[1], None
    else:
        prepared = programs.prepare(pair, (method,), batch, image, smoke=True)
        plan = {plan.name: plan for plan in prepared.plans}[method]
        teacher = programs.untrained_teacher(prepared)
    phase = programs.TimedPhase(plan, prepared, teacher)
    return [_difference(phase, searches) for searches in ((False, True) if phase.programs.search else (False,))]


def _difference(phase: programs.TimedPhase, searches: bool) -> dict:
    arrays = jax.tree.map(np.array, (phase.loop.state, phase.teachers, phase.batch))  # copies: the state is donated
    expected, metrics = _on_cpu(phase.plan, searches, arrays, jax.random.key_data(phase.key))
    before, part = arrays[0], "policy" if searches else "params"
    phase.loop = phase.programs.loop_state(phase.loop.state)
    phase.search() if searches else phase.step()
    after = jax.device_get(phase.loop.state)
    values = {"update of the parameters": _relative(*(getattr(state, part) for state in (before, after, expected)))}
    if not searches:
        loss, wanted = (m["loss"].total / m["loss"].count for m in jax.device_get((phase.loop.metrics, metrics)))
        values["loss"] = float(abs(loss - wanted) / abs(wanted))
    return values


def _on_cpu(plan, searches: bool, arrays: tuple, key_data):
    """State and metrics after the step, computed by the CPU."""
    parts = {"student": plan.network.model, "distiller": plan.distiller, "tx": plan.tx}

    def step(state, variables, batch, key_data):
        key = jax.random.wrap_key_data(key_data)

        def teach(image):
            networks = [teacher.network for teacher in plan.teachers] if plan.needs_teachers else []
            pairs = zip(networks, variables, strict=False)
            outputs = [engine.teacher_outputs(n.model, v, normalize(image, n.mean, n.std)) for n, v in pairs]
            return tuple(select_outputs(each, plan.distiller.needs) for each in outputs)

        outputs, batch = teach(batch["image"]), normalized(batch, plan.network)
        if searches:
            return engine.policy_step(state, (outputs, batch), (outputs, batch), key, **parts)
        return engine.train_step(state, outputs, batch, key, **parts, trains=plan.phase.trains)

    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        return jax.jit(step)(*jax.device_put(arrays, cpu), jax.device_put(np.asarray(key_data), cpu))


def _relative(before, after, expected) -> float:
    """|update - expected update| / |expected update|, over all leaves."""

    def square(a, b) -> float:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return float(sum(np.sum((np.asarray(x, np.float64) - np.asarray(y, np.float64)) ** 2) for x, y in pairs))

    return (square(after, expected) / square(expected, before)) ** 0.5


def step(bench) -> None:
    """Every method at every size and precision, beside PyTorch's, in interleaved rounds; one size and precision after
    the other, whose programs are compiled at the same time."""
    rows = gpu_parts.PARTS["step"].rows
    for batch, precision in dict.fromkeys((row["batch"], row["precision"]) for row in rows):
        if bench.left() <= 0:
            bench.write(row={"batch": batch, "precision": precision}, error="no time was left")
            continue
        try:
            _steps_of(bench, batch, precision)
        except Exception as e:
            bench.fail(e, row={"batch": batch, "precision": precision})
    jax.config.update("jax_default_matmul_precision", None)


def _steps_of(bench, batch: int, precision: str) -> None:
    jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    images, methods = bench.size(batch, max(batch // 64, 2)), gpu_parts.METHODS
    image, repeat = bench.size(32, 8), bench.size(REPEAT, 1)
    with ThreadPoolExecutor(len(methods) + 1) as pool:
        others = pool.submit(_pytorch, bench, images, precision, image, repeat)
        kind = "bfloat16" if precision == "bf16" else "float32"
        prepared = programs.prepare(bench.pair, methods[1:], images, image, smoke=True, precision=kind)
        plans, teacher = {plan.name: plan for plan in prepared.plans}, programs.untrained_teacher(prepared)
        phases = {m: pool.submit(programs.TimedPhase, plans[m], prepared, teacher) for m in methods}
        phases, others = {m: phase.result() for m, phase in phases.items()}, others.result()
    try:
        for method, phase in phases.items():
            row = {"batch": batch, "precision": precision, "method": method}
            calls = {"ours": partial(_repeated, phase.start_step, repeat)}
            calls |= {n: partial(others, n) for n in (others.calls if others else ()) if n.startswith(f"{method},")}
            failed = {}
            spent = rounds(calls, bench.size(ROUNDS, 1), warm=1, failed=failed)
            bench.write(row=row, values=_values(method, images, spent), **({"failed": failed} if failed else {}))
    finally:
        if others:
            others.close()


def _values(method: str, images: int, spent: dict) -> dict:
    median = {name: statistics.median(seconds) for name, seconds in spent.items()}
    eager, last = (median.get(f"{method}, eager, {layout}") for layout in ("contiguous", "channels last"))
    values = {"ms": median["ours"] * 1e3, "images/s": images / median["ours"]}
    if eager:
        values |= {"PyTorch, ms": eager * 1e3, "of PyTorch": median["ours"] / eager}
    return values | ({"PyTorch channels last, ms": last * 1e3} if last else {})


def _pytorch(bench, batch: int, precision: str, image: int, repeat: int) -> Worker | None:
    """PyTorch's worker, or None where there is no torch."""
    asked = {"pair": bench.pair, "batch": batch, "precision": precision, "image": image, "repeat": repeat}
    source = bench.asked["mdistiller"]
    asked |= {"mdistiller": source, "layouts": ["contiguous", "channels last"]}
    asked["methods"] = [m for m in gpu_parts.METHODS if m != "skd"] if source else ["kd", "dkd"]
    asked["cpu"] = jax.default_backend() == "cpu"
    try:
        return Worker([bench.asked["torch_python"], str(Path(__file__).parent / "torch_worker.py"), json.dumps(asked)])
    except NotAvailable as e:
        print(f"no PyTorch: {e}", file=sys.stderr)
        return None


def _repeated(start, count: int) -> float:
    """Seconds of one of `count` calls that the device takes one after the other."""
    began = time.perf_counter()
    for _ in range(count):
        result = start()
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / count


def shares(bench) -> None:
    """The whole loop, and its parts alone."""
    batch, repeat = bench.size(64, 4), bench.size(100, 2)
    image, examples = bench.size(32, 8), bench.size(50_000, 64)
    prepared = programs.prepare(bench.pair, ("skd",), batch, image, examples, smoke=True)
    plans, teacher = {plan.name: plan for plan in prepared.plans}, programs.untrained_teacher(prepared)

    def measure(method: str) -> dict:
        phase, number = programs.TimedPhase(plans[method], prepared, teacher), iter(range(10**9))
        outputs = phase.teacher_outputs()

        def whole():
            outputs, batch = phase.inputs.train(next(number), (phase.loop.state,))
            phase.loop = phase.programs.train(phase.loop, outputs, batch, phase.key)
            return phase.loop

        def student():
            phase.loop = phase.programs.train(phase.loop, outputs, phase.batch, phase.key)
            return phase.loop

        parts = {"whole": whole, "teacher": phase.teacher_outputs, "student": student}
        parts["input"] = lambda: phase.source.train(next(number), batch)
        calls = {name: partial(_repeated, call, repeat) for name, call in parts.items()}
        ms = {name: 1e3 * statistics.median(s) for name, s in rounds(calls, bench.size(ROUNDS, 1), warm=1).items()}
        return ms | {"gaps": ms["whole"] - sum(ms[name] for name in ("teacher", "student", "input"))}

    bench.each(measure)


PARTS = {"equal": equal, "step": step, "shares": shares}
