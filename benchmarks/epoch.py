"""An epoch, its input included: ours as launch/train.py runs it, PyTorch's loop over its loader, and mdistiller's own.

Seconds of an epoch of --examples made-up images, evaluation left out, in interleaved rounds: KD with a live teacher,
one step a call and several, with a full teacher cache; PyTorch's step over a DataLoader with CIFAR's crop, flip and
normalisation in --workers processes; mdistiller's trainer over its own loader.
"""

import statistics
import tempfile
from pathlib import Path

import runs
from record import Goal, Measured, Table, at_least
from step import torch_flags, torch_workers
from worker import ratio, rounds


def flags(parser) -> None:
    runs.flags(parser)
    parser.add_argument("--workers", type=int, default=2, help="of PyTorch's loader; 2 is mdistiller's default")
    torch_flags(parser)


def check(flags, parser) -> None:
    at_least(parser, flags, batch=1, rounds=1, image=8, epochs=2, examples=flags.batch, workers=0)


def measure(flags) -> Measured:
    size, notes, calls, failed = runs.size_of(flags), [], {}, {}
    asked = {"methods": ["kd"], "examples": size.steps * size.batch, "workers": flags.workers, "image": size.image}
    others = torch_workers(flags, notes, **asked)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        teacher = runs.trained_teacher(size, folder / "teacher")

        def add(name: str, **keys) -> None:
            if runs.available(notes, name, runs.recipe, size, "kd", teacher, **keys):
                calls[name] = lambda: size.steps * _seconds(size, teacher, keys)

        add("KD, live teacher")
        add("KD, live teacher, one step a call", steps_per_call="1")
        add("KD, full teacher cache", teacher_cache=str(folder / "cache"))
        calls |= {title: lambda worker=worker: worker("epoch") for title, worker in others.items()}
        try:
            spent = rounds(calls, flags.rounds, warm=1, failed=failed)
        finally:
            for worker in others.values():
                worker.close()
    notes += [f"{name}: not available ({why})" for name, why in failed.items()]
    notes += [worker.facts["torch"] for worker in [*others.values()][:1]]
    rows = []
    for name, seconds in spent.items():
        median = statistics.median(seconds)
        rows.append([name, median, asked["examples"] / median, ratio(spent, name, "KD, live teacher")])
    title = f"{size.pair}, batch {size.batch}, an epoch of {asked['examples']} images"
    table = Table(title, ("loop", "seconds", "images/s", "of ours, live"), rows)
    goals = [
        Goal(f"{ours} / {other}'s epoch", limit, ratio(spent, ours, other))
        for other in others
        for ours, limit in (("KD, live teacher", 1.0), ("KD, full teacher cache", 0.5))
    ]
    return Measured([table], goals, notes)


def _seconds(size: runs.Size, teacher: str, keys: dict) -> float:
    return runs.timed_run(runs.recipe(size, "kd", teacher, **keys), size.steps).seconds
