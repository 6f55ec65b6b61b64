"""What benchmarks/gpu.py measures: its parts, most valuable first, with the rows and figures of each. Data only."""

from itertools import product
from typing import NamedTuple


class Part(NamedTuple):
    """title: of its table. share: of the minutes, beside the others'. rows: what is measured, in this order.
    values: the figures of a row."""

    title: str
    share: float
    rows: list[dict]
    values: tuple[str, ...]


METHODS = ("kd", "skd", "dkd", "reviewkd", "crd")
EQUAL = ("kd", "skd", "sftn (teacher's phase)", "sokd", "sokd (policy step)")
STEPS = [
    {"batch": batch, "precision": precision, "method": method}
    for batch, precision, method in product((64, 256, 1024), ("tf32", "float32", "bf16"), METHODS)
]
HOURS = "hours, projected"
PARTS = {
    "equal": Part(
        "Numbers beside the CPU's: a step from the same state, float32 at the highest precision, relative differences",
        75, [{"step": name} for name in EQUAL], ("loss", "update of the parameters"),
    ),
    "step": Part(
        "A step, resnet32x4 to resnet8x4, beside PyTorch's eager one on the same card",
        150, STEPS, ("ms", "images/s", "PyTorch, ms", "PyTorch channels last, ms", "of PyTorch"),
    ),
    "shares": Part(
        "Where a step's time goes, batch 64: ms, by differences of parts that run alone",
        30, [{"method": name} for name in ("kd", "skd")], ("whole", "teacher", "student", "input", "gaps"),
    ),
    "cached": Part(
        "With a teacher cache, KD, batch 64",
        35, [{"run": name} for name in ("student alone", "live", "cold cache", "warm cache")], ("ms a step",),
    ),
    "seeds": Part(
        "Seeds together, KD, batch 64",
        40, [{"seeds": n} for n in (1, 4, 8)], ("ms a step", "of separate runs"),
    ),
    "calls": Part(
        "Steps a call, KD, batch 64", 30, [{"steps a call": n} for n in (1, 50)], ("ms a step",),
    ),
    "resume": Part(
        "Killed and resumed, deterministic operations, SKD",
        50, [{"run": "resnet20 to resnet8"}], ("leaves", "leaves that differ", "ms a step, deterministic", "ms a step"),
    ),
    "whole": Part(
        "A run of 240 epochs, SKD, resnet32x4 to resnet8x4, 50,000 + 10,000 made-up images, batch 64, test after every "
        "epoch, as far as it came",
        70, [{"run": "skd"}], ("steps", "ms a step", "images/s", "seconds an epoch, test and save included", HOURS),
    ),
}  # fmt: skip
