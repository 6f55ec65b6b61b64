"""A training step, ours beside PyTorch's: milliseconds, images a second, ratios; of each of our programs bytes and
flops.

Interleaved rounds of the whole step of KD and of --method (the teacher's program, then the training step), the
student's step alone (on a CPU also with XLA's own convolutions and pooling), the teacher's forward alone and, where
the method searches a policy, a step of that; on a CPU each with convolutions by YNNPACK, XLA's default, and by Eigen.
Beside them, where --torch_python has torch, PyTorch's KD step as mdistiller's trainer takes it, eager and compiled,
contiguous and channels last; and mdistiller's own."""

import json
import os
import statistics
import sys
from pathlib import Path

from record import ROOT, Goal, Measured, Table, at_least
from worker import NotAvailable, Worker, ratio, rounds

HERE = Path(__file__).resolve().parent
LIBRARY = "--xla_cpu_experimental_ynn_fusion_type"
LIBRARIES = {"YNNPACK": "", "Eigen": f"{LIBRARY}=REDUCE"}  # what convolves on a CPU


def flags(parser) -> None:
    parser.add_argument("--pair", default="resnet32x4,resnet8x4", help="TEACHER,STUDENT")
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--image", type=int, default=32, help="pixels a side")
    parser.add_argument("--method", default="skd", help="as configs/compose.py spells it: dkd, skd+dkd, sokd, ...")
    torch_flags(parser)
    parser.add_argument("--modes", default="eager,compiled", help="of PyTorch, joined by commas")


def torch_flags(parser) -> None:
    parser.add_argument("--torch_python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--mdistiller", default="", help="a checkout of mdistiller")


def torch_worker(flags, **asked) -> Worker:
    """PyTorch's worker in the Python that has it."""
    asked = {"pair": flags.pair, "batch": flags.batch, **asked}
    return Worker([flags.torch_python, str(HERE / "torch_worker.py"), json.dumps(asked)])


def torch_workers(flags, notes: list[str], **asked) -> dict[str, Worker]:
    """ "PyTorch" and, with a checkout, "mdistiller": those that there are. notes: takes why one is missing."""
    workers, sources = {}, {"PyTorch": ""} | ({"mdistiller": flags.mdistiller} if flags.mdistiller else {})
    for title, source in sources.items():
        try:
            workers[title] = torch_worker(flags, mdistiller=source, **asked)
        except NotAvailable as e:
            notes.append(f"{title}: not available ({e})")
    return workers


def our_workers(flags, notes: list[str]) -> dict[str, Worker]:
    """Kernel library -> our worker; on other devices than a CPU one, ""."""
    given = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(LIBRARY))
    command = [
        sys.executable,
        str(HERE / "jax_worker.py"),
        flags.pair,
        str(flags.batch),
        str(flags.image),
        flags.method,
    ]
    workers = {}
    for library, flag in LIBRARIES.items():
        try:
            workers[library] = Worker(command, {"XLA_FLAGS": f"{given} {flag}".strip(), "PYTHONPATH": str(ROOT)})
        except NotAvailable as e:
            notes.append(f"convolutions by {library}: not available ({e})")
            continue
        if workers[library].facts["platform"] != "cpu":
            return {"": workers.pop(library)}
    if not workers:
        raise SystemExit(f"error: {notes[-1]}")
    return workers


def check(flags, parser) -> None:
    at_least(parser, flags, batch=1, rounds=1, image=8)
    check_pair(flags, parser)


def check_pair(flags, parser) -> None:
    """Refuse a pair or a method that there is not."""
    from configs import compose
    from kd_jax import InputError

    try:
        compose.get_config(f"{getattr(flags, 'method', 'kd')},{flags.pair}")
    except InputError as e:
        parser.error(str(e))


def measure(flags) -> Measured:
    notes, failed = [], {}
    ours = our_workers(flags, notes)
    modes = [mode for mode in flags.modes.split(",") if mode]
    layouts = ["contiguous", "channels last"]
    others = torch_workers(flags, notes, image=flags.image, methods=["kd"], modes=modes, layouts=layouts)
    calls = {}
    for title, worker in (ours | others).items():
        for name in worker.calls:
            spelled = f"{title}: {name.removeprefix('kd, ')}" if title in others else _ours(name, title)
            calls[spelled] = lambda worker=worker, name=name: worker(name)
    try:
        spent = rounds(calls, flags.rounds, failed=failed)
    finally:
        for worker in (ours | others).values():
            worker.close()
    notes += [f"{name}: not available ({why})" for name, why in failed.items()]
    notes += [worker.facts["torch"] for worker in [*others.values()][:1]]
    return Measured([_times(flags, spent, ours), *_programs(ours)], _goals(flags, spent, ours), notes)


def _ours(name: str, library: str) -> str:
    return f"{name}, convolutions by {library}" if library else name


def _times(flags, spent: dict, ours: dict) -> Table:
    base = _ours("KD", next(iter(ours)))
    rows = []
    for name, seconds in spent.items():
        median = statistics.median(seconds)
        rows.append([name, median * 1e3, min(seconds) * 1e3, flags.batch / median, ratio(spent, name, base)])
    title = f"{flags.pair}, batch {flags.batch}, {flags.image} x {flags.image} pixels, {flags.rounds} rounds"
    return Table(title, ("step", "ms (median)", "ms (fastest)", "images/s", f"of {base}"), rows)


def _programs(ours: dict) -> list[Table]:
    rows = [
        [_ours(name, library), *account]
        for library, worker in ours.items()
        for name, account in worker.facts["programs"].items()
    ]
    columns = ("program", "seconds to compile", "bytes of temporaries", "bytes of arguments")
    facts = next(iter(ours.values())).facts
    flops = [[name, whole, parts, whole / parts] for name, (whole, parts) in facts["flops"].items()]
    return [
        Table("Compiled programs", columns, rows),
        Table("Flops by XLA's count", ("step", "whole", "teacher + 3 x student", "ratio"), flops),
        Table("Parameters of the method's own", ("method", "parameters"), [[facts["method"], facts["parameters"]]]),
    ]


def _goals(flags, spent: dict, ours: dict) -> list[Goal]:
    facts = next(iter(ours.values())).facts
    goals = [Goal("compiled flops of KD's step / its parts", 1.02, facts["flops"]["KD"][0] / facts["flops"]["KD"][1])]
    for library in ours:
        kd = _ours("KD", library)
        others = [name for name in spent if name.endswith(": eager, contiguous")]
        goals += [Goal(f"{kd} / {name.partition(':')[0]}'s step", 1.0, ratio(spent, kd, name)) for name in others]
        if flags.method == "skd":
            goals.append(Goal(f"SKD / {kd}", 1.02, ratio(spent, _ours("SKD", library), kd)))
    return goals
