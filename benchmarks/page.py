"""docs/performance.md, made of the JSON files of benchmarks/run.py and the lines of benchmarks/gpu.py; not edited
by hand. What was not measured is an empty cell."""

import json
from pathlib import Path

import gpu_parts
import record
from record import Table, markdown

PAGE = record.ROOT / "docs" / "performance.md"
TITLES = {
    "step": "A step", "cache": "The teacher cache", "seeds": "Seeds together", "input": "Input",
    "start": "To the first step", "scaling": "Devices", "epoch": "An epoch",
    "memory": "Memory over a long run", "methods": "Methods",
}  # fmt: skip
HEAD = """# Performance

Made by `python benchmarks/run.py` from the files in its `--out`; not edited by hand. Ratios are medians over
interleaved rounds of one run, never of two. A cell is empty where nothing was measured. Every figure stands with its
command, date, machine and versions; it says nothing about another machine.

`python benchmarks/gpu.py --minutes=8 --out=DIR` measures a GPU; its `DIR/gpu.jsonl`, put into the folder of results,
fills the last section.
"""


def write(folder: Path, path: Path = PAGE) -> None:
    """Make the page of the results in a folder. From another folder than the project's nothing of the project's page
    changes: it is written into that folder."""
    path = path if folder.resolve() == (record.ROOT / "benchmarks" / "results").resolve() else folder / path.name
    path.write_text(text(folder))


def text(folder: Path) -> str:
    """The whole page."""
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*-jax*.json"))]
    parts = {name: [result for result in results if result["part"] == name] for name in TITLES}
    sections = [HEAD, "## Goals\n", goals(results), ""]
    for name, title in TITLES.items():
        if name != "methods":
            sections += [f"## {title}\n", *(part(result) for result in parts[name])]
            sections += [] if parts[name] else [f"Not measured yet: `python benchmarks/run.py {name}`\n"]
    return "\n".join([*sections, "## On a GPU\n", gpu(folder)]).rstrip() + "\n"


def goals(results: list[dict]) -> str:
    """What is to be true, and what was measured where."""
    rows = [
        [goal["what"], f"<= {goal['limit']:g}", goal["value"], goal["note"], _kind(result)]
        for result in results
        for goal in result["goals"]
    ]
    if not rows:
        return "Not measured yet: `python benchmarks/run.py all`\n"
    return markdown(Table("", ("ratio", "goal", "measured", "", "machine"), rows)) + "\n"


def _kind(result: dict) -> str:
    device, cpu = result["device"], result["cpu"]
    kind = record.cpu_line(cpu) if device["platform"] == "cpu" else device["kind"]
    return f"{kind}; jax {result['versions']['jax']}"


def part(result: dict) -> str:
    """One file's tables, under the line that says where they come from."""
    load = f"load {result['load']['before'].split()[0]} before, {result['load']['after'].split()[0]} after"
    lines = [f"`{result['command']}`, {result['date']}; {record.where(result)}; {load}.\n"]
    for table in result["tables"]:
        lines += [f"{table['title']}:\n", markdown(Table(**table)), ""]
    return "\n".join([*lines, *(f"- {note}" for note in result["notes"]), ""])


def gpu(folder: Path) -> str:
    """A table for every part of gpu.py, with all of its rows, empty where no line of a file has their figures."""
    files = [[json.loads(line) for line in file.read_text().splitlines()] for file in sorted(folder.glob("gpu*.jsonl"))]
    real = [lines for lines in files if not any(line.get("tiny") for line in lines)]
    return "\n".join(map(_gpu, real or [[]]))


def _gpu(lines: list[dict]) -> str:
    """Of one file; one of --tiny is a rehearsal, and has no place here."""
    begun = next((line for line in lines if line["part"] == "environment"), None)
    sections = [f"`{begun['command']}`, {begun['date']}; {record.where(begun)}.\n" if begun else "Not measured yet.\n"]
    for name, described in gpu_parts.PARTS.items():
        measured = {
            json.dumps(line["row"]): line["values"] for line in lines if line["part"] == name and "values" in line
        }
        rows = []
        for row in described.rows:
            values = measured.get(json.dumps(row), {})
            rows.append([*row.values(), *(values.get(value) for value in described.values)])
        sections += [f"{described.title}:\n", markdown(Table("", (*described.rows[0], *described.values), rows)), ""]
    errors = [line for line in lines if "error" in line]
    sections += [f"- {e['part']} {' '.join(map(str, e.get('row', {}).values()))}: {e['error']}" for e in errors]
    return "\n".join(sections) + "\n"
