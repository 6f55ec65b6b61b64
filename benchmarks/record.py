"""What a benchmark says of itself: flags, the machine it ran on, its tables and goals, and the file that holds them."""

import argparse
import json
import os
import platform
import shlex
import sys
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
PATHS = {"--torch_python": "PYTHON", "--mdistiller": "DIR", "--json": "FILE", "--against": "FILE"}
SETS = ("avx512f", "avx2", "amx_tile", "asimd")  # instruction sets that decide which kernels there are


class Parser(argparse.ArgumentParser):
    """One line and exit code 2 for wrong flags."""

    def error(self, message):
        self.exit(2, f"error: {message}; --help shows what is accepted\n")


def at_least(parser: Parser, flags, **least: int) -> None:
    """Refuse a number below what is the least of its flag."""
    for name, low in least.items():
        value = getattr(flags, name)
        if value is not None and value < low:
            parser.error(f"--{name}={value}: must be at least {low}")


class Table(NamedTuple):
    """title; columns; rows of cells: text, or numbers, which are written as `cell` does; None is not measured."""

    title: str
    columns: tuple[str, ...]
    rows: list[list]


class Goal(NamedTuple):
    """what: a ratio in words. limit: what it is not to exceed. value: as measured, None where it was not.
    note: why not, or how."""

    what: str
    limit: float
    value: float | None = None
    note: str = ""


class Measured(NamedTuple):
    """What a part of the benchmark has measured."""

    tables: list[Table]
    goals: list[Goal] = []
    notes: list[str] = []


def cell(value) -> str:
    """A cell of a table; what was not measured is empty."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def markdown(table: Table) -> str:
    """A table in Markdown; columns in which a number stands are to the right."""
    numbers = [any(isinstance(row[i], int | float) for row in table.rows) for i in range(len(table.columns))]
    lines = [f"| {' | '.join(table.columns)} |", f"| {' | '.join('---:' if n else '---' for n in numbers)} |"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in table.rows]
    return "\n".join(lines)


def load() -> str:
    """The machine's load in the last 1, 5 and 15 minutes."""
    return " ".join(f"{x:.2f}" for x in os.getloadavg())


def cpu() -> dict:
    """Name, cores that this process may use, and those of SETS that the CPU has."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    facts = {"name": platform.processor() or platform.machine(), "cores": cores}
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return {**facts, "sets": None}
    values = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    flags = (values.get("flags") or values.get("Features") or "").split()
    return {**facts, "name": values.get("model name", facts["name"]), "sets": [name for name in SETS if name in flags]}


def cpu_line(facts: dict) -> str:
    """One line on a CPU, with what decides: AVX-512 or not."""
    sets = "instruction sets unknown" if facts["sets"] is None else ", ".join(facts["sets"]) or "none of AVX2, AVX-512"
    if facts["sets"] is not None:
        sets = f"{'AVX-512' if 'avx512f' in facts['sets'] else 'no AVX-512'} ({sets})"
    return f"{facts['name']}, {facts['cores']} cores, {sets}"


def versions() -> dict:
    """Of Python and of the packages that are installed of VERSIONS."""
    numbers = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            numbers[name] = None
    return numbers


def machine() -> dict:
    """What a figure is worth nothing without: device, CPU, versions, date."""
    import jax

    device = jax.devices()[0]
    return {
        "date": date.today().isoformat(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "cpu": cpu(),
        "versions": versions(),
    }


def where(facts: dict) -> str:
    """One line on the machine of a figure."""
    device, jax, flax = facts["device"], facts["versions"]["jax"], facts["versions"]["flax"]
    kind = "" if device["platform"] == "cpu" else f"{device['count']} x {device['kind']}; "
    return f"{kind}{cpu_line(facts['cpu'])}; Python {facts['versions']['python']}, jax {jax}, flax {flax}"


def command() -> str:
    """The command line of this process, as one types it from the repository's root; of what lies elsewhere on this
    machine (PATHS) only the flag."""
    script = os.path.relpath(Path(sys.argv[0]).resolve(), ROOT)
    flags = [flag.partition("=") for flag in sys.argv[1:] if not flag.startswith("--out=")]
    return shlex.join(["python", script, *(n + sign + (PATHS.get(n) or value) for n, sign, value in flags)])


def write(folder: Path, part: str, measured: Measured, before: str) -> Path:
    """Keep what a part has measured; the name says which kind of machine it was.

    Args:
      folder: created if need be.
      part: its name.
      measured: tables, goals, notes.
      before: the machine's load when it began.
    """
    facts = machine()
    sets = facts["cpu"]["sets"] or []
    kind = "avx512" if "avx512f" in sets else "avx2" if "avx2" in sets else facts["cpu"]["name"]
    kind = kind if facts["device"]["platform"] == "cpu" else facts["device"]["kind"]
    slug = "".join(c if c.isalnum() else "_" for c in kind.lower())
    content = {
        "part": part, "command": command(), **facts, "load": {"before": before, "after": load()},
        "goals": [goal._asdict() for goal in measured.goals],
        "tables": [table._asdict() for table in measured.tables],
        "notes": measured.notes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}-{slug}-jax{facts['versions']['jax']}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
