"""Several seeds in one program against as many runs of one: milliseconds of a step of all, with a live teacher and with
a full cache. Whole runs in interleaved rounds."""

import statistics
import tempfile
from pathlib import Path

import runs
from record import Goal, Measured, Table, at_least
from worker import ratio, rounds


def flags(parser) -> None:
    runs.flags(parser)
    parser.add_argument("--method", default="kd", help="as configs/compose.py spells it")
    parser.add_argument("--seeds", type=int, default=4)


def check(flags, parser) -> None:
    at_least(parser, flags, batch=1, rounds=1, image=8, epochs=2, examples=flags.batch, seeds=2)


def measure(flags) -> Measured:
    size, notes, calls = runs.size_of(flags), [], {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        teacher = runs.trained_teacher(size, folder / "teacher")

        def add(name: str, **keys) -> None:
            if runs.available(notes, name, runs.recipe, size, flags.method, teacher, **keys):
                calls[name] = lambda: (
                    runs.timed_run(runs.recipe(size, flags.method, teacher, **keys), size.steps).seconds
                )

        together = f"{flags.seeds} seeds together"
        add("one seed, live teacher")
        add(f"{together}, live teacher", seeds=flags.seeds)
        add("one seed, full cache", teacher_cache=str(folder / "cache"))
        add(f"{together}, full cache", teacher_cache=str(folder / "cache"), seeds=flags.seeds)
        spent = rounds(calls, flags.rounds, warm=1)
    one = {name: s for name, s in spent.items() if name.startswith("one")}
    rows = [[name, statistics.median(s) * 1e3, ratio(spent, name, next(iter(one)))] for name, s in spent.items()]
    goals = []
    for teacher in ("live teacher", "full cache"):
        value = ratio(spent, f"{together}, {teacher}", f"one seed, {teacher}")
        what = f"{together} / one run, {teacher}"
        goals.append(Goal(what, float(flags.seeds), value, "on a GPU the goal is 2.0" if flags.seeds == 4 else ""))
    title = f"{size.pair}, {flags.method}, batch {size.batch}, epochs 2 to {size.epochs} of {size.examples} images"
    return Measured([Table(title, ("run", "ms a step", "of one seed, live"), rows)], goals, notes)
