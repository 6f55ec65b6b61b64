"""What the teacher cache saves: a step of the student alone, with a live teacher, with a cache that is filled on
the way (cold) and with one that is full (warm); and how much of the teacher's work is left over many epochs,
counted and computed.

Whole runs in interleaved rounds; every cold run has a new cache, all warm ones the same. The counts are those of
two runs of --count_epochs epochs of a small set and pair, the second with another data seed, as their summary.json
has them."""

import statistics
import tempfile
from itertools import count
from pathlib import Path

import runs
from record import Goal, Measured, Table, at_least
from worker import NotAvailable, ratio, rounds

VIEWS = 162  # of an image under crop (pad 4) and flip: 9 x 9 x 2
METHODS = ("kd", "skd")


def flags(parser) -> None:
    runs.flags(parser)
    parser.add_argument("--count_epochs", type=int, default=240)


def check(flags, parser) -> None:
    at_least(parser, flags, batch=1, rounds=1, image=8, epochs=2, examples=flags.batch, count_epochs=1)


def measure(flags) -> Measured:
    size, notes = runs.size_of(flags), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        teacher = runs.trained_teacher(size, folder / "teacher")
        calls = _calls(size, teacher, folder, notes)
        spent = rounds(calls, flags.rounds, warm=1)
        counted = runs.available(notes, "counts", _counted, flags.count_epochs, folder)
    rows = [[name, statistics.median(s) * 1e3, ratio(spent, name, "student alone")] for name, s in spent.items()]
    title = f"{size.pair}, batch {size.batch}, epochs 2 to {size.epochs} of {size.examples} images"
    return Measured(
        [Table(title, ("run", "ms a step", "of the student alone"), rows), _work(flags.count_epochs, counted)],
        _goals(spent, flags.count_epochs, counted),
        notes,
    )


def _calls(size: runs.Size, teacher: str, folder: Path, notes: list[str]) -> dict:
    def call(method: str, cache=None):
        def run() -> float:
            keys = {"teacher_cache": str(cache())} if cache else {}
            return runs.timed_run(runs.recipe(size, method, teacher, **keys), size.steps).seconds

        return run

    calls, numbers = {"student alone": call("")}, count()
    for method in METHODS:
        name = method.upper()
        calls[f"{name}, live"] = call(method)
        if runs.available(notes, f"{name}, cached", runs.recipe, size, method, teacher, teacher_cache="") is None:
            continue
        calls[f"{name}, cold"] = call(method, lambda: folder / f"cold{next(numbers)}")
        calls[f"{name}, warm"] = call(method, lambda: folder / "warm")
    return calls


def share(epochs: int) -> float:
    """Of the teacher's work of so many epochs what a cache leaves: the expected number of different views over that of
    images."""
    return VIEWS * (1 - (1 - 1 / VIEWS) ** epochs) / epochs


def another_seed(epochs: int) -> float:
    """Of a second run's teacher work, with another data seed, what a cache leaves: the share of views that the first
    run did not meet."""
    return (1 - 1 / VIEWS) ** epochs


def _counted(epochs: int, folder: Path) -> tuple[float, float]:
    """The same as counted: misses of the first run over its images, of the second one over those."""
    size = runs.Size("resnet8,resnet8", 64, 32, 64, epochs)
    teacher, misses = runs.trained_teacher(size, folder / "small-teacher"), []
    for seed in (0, 1):
        keys = {"teacher_cache": str(folder / "counted"), "data__seed": seed}
        phase = runs.timed_run(runs.recipe(size, "kd", teacher, **keys), size.steps).phase
        if not phase.get("teacher_cache"):
            raise NotAvailable("summary.json names no teacher_cache")
        misses.append(phase["teacher_cache"]["misses"])
    return misses[0] / (epochs * size.examples), misses[1] / misses[0]


def _work(epochs: int, counted: tuple[float, float] | None) -> Table:
    first, second = counted or (None, None)
    rows = [
        ["first run, of live", share(epochs), first],
        ["second run with another data seed, of the first", another_seed(epochs), second],
        ["second run with the same data seed", 0.0, None],
    ]
    return Table(f"The teacher's work over {epochs} epochs of crop and flip", ("run", "computed", "counted"), rows)


def _goals(spent: dict, epochs: int, counted: tuple[float, float] | None) -> list[Goal]:
    goals = []
    for name in (method.upper() for method in METHODS):
        goals.append(Goal(f"{name}, warm cache / student alone", 1.05, ratio(spent, f"{name}, warm", "student alone")))
        goals.append(Goal(f"{name}, cold cache / live", 1.05, ratio(spent, f"{name}, cold", f"{name}, live")))
    first, second = counted or (None, None)
    return [
        *goals,
        Goal(f"teacher's work of {epochs} epochs / live", 0.55, first, f"computed: {share(epochs):.3f}"),
        Goal("teacher's work, another data seed / first run", 0.25, second, f"computed: {another_seed(epochs):.3f}"),
    ]
