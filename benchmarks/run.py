"""Measure kd_jax on this machine, keep the figures as JSON, and make docs/performance.md's tables of them.

python benchmarks/run.py [step|cache|seeds|input|start|scaling|epoch|memory|methods|all|page] [--out=benchmarks/results]
    One part with its flags (`run.py PART --help`), or all of them, each in a process of its own with its defaults, but
    for `methods`, which takes hours with large networks. Every part prints what it measured, its ratios, and the CPU's
    instruction sets; writes OUT/PART-MACHINE-JAX.json with command, device, versions and date; and makes the page anew.
    `page` only makes the page. Ratios are medians over interleaved rounds of one run.
"""

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import page  # noqa: E402
import record  # noqa: E402
from kd_jax.tools import environment  # noqa: E402

ALL = ("step", "cache", "seeds", "input", "start", "scaling", "epoch", "memory")
PARTS = (*ALL, "methods")


def show(measured: record.Measured) -> None:
    """Print what a part has measured."""
    for table in measured.tables:
        print(f"\n{table.title}\n\n{record.markdown(table)}")
    print()
    for goal in measured.goals:
        value = "not available" if goal.value is None else f"{goal.value:.3f}"
        print(f"{goal.what}: {value}; the goal is at most {goal.limit:g}{f' ({goal.note})' if goal.note else ''}")
    for note in measured.notes:
        print(f"note: {note}")


def parser_of(part: str) -> record.Parser:
    """The flags of a part."""
    module = import_module(part)
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = record.Parser(prog=f"run.py {part}", description=module.__doc__, **how)
    _add_out(parser)
    module.flags(parser)
    return parser


def measure(part: str, arguments: list[str]) -> int:
    """One part."""
    module, parser = import_module(part), parser_of(part)
    flags = parser.parse_args(arguments)
    module.check(flags, parser)
    environment.prepare()  # what a part runs in this process computes as the commands do
    before = record.load()
    measured = module.measure(flags)
    path = record.write(flags.out, part, measured, before)
    print(f"{part}: {record.where(record.machine())}; load before: {before}, after: {record.load()}")
    show(measured)
    print(f"written: {path}")
    page.write(flags.out)
    return 0


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON files")


def main() -> int:
    part, *arguments = sys.argv[1:] or ["all"]
    if part.startswith("--"):
        part, arguments = "all", sys.argv[1:]
    if part in PARTS:
        return measure(part, arguments)
    parser = record.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("part", choices=(*PARTS, "all", "page"))
    _add_out(parser)
    flags = parser.parse_args([part, *arguments])
    if flags.part == "page":
        page.write(flags.out)
        return 0
    command = [sys.executable, str(Path(__file__).resolve())]
    codes = [subprocess.run([*command, name, f"--out={flags.out}"]).returncode for name in ALL]
    for name, code in zip(ALL, codes, strict=True):
        if code:
            print(f"{name}: failed with exit code {code}", file=sys.stderr)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
