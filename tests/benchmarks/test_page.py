"""docs/performance.md holds what was measured, and nothing else."""

import json

import pytest

from tests.conftest import ROOT

MACHINE = {
    "date": "2026-01-02",
    "device": {"platform": "gpu", "kind": "Card", "count": 1},
    "cpu": {"name": "Processor", "cores": 2, "sets": ["avx2"]},
    "versions": {"python": "3.12.0", "jax": "0.11.0", "flax": "0.12.0"},
    "command": "python benchmarks/gpu.py --minutes=8",
}


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import page
    import record

    return page, record


def cells(text, title):
    """The rows of the table under a title."""
    lines = text.partition(f"{title}:\n")[2].strip().splitlines()
    table = lines[: lines.index("") if "" in lines else None]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_without_results_every_figure_is_empty(modules, tmp_path):
    page, _ = modules
    text, parts = page.text(tmp_path), page.gpu_parts.PARTS
    for part in parts.values():
        rows = cells(text, part.title)
        assert len(rows) == len(part.rows)
        assert all(not any(row[-len(part.values) :]) for row in rows)


def test_the_page_is_what_the_results_say(modules):
    page, _ = modules
    assert page.text(ROOT / "benchmarks" / "results") == (ROOT / "docs" / "performance.md").read_text()


def test_a_line_fills_its_row_and_no_other(modules, tmp_path):
    page, _ = modules
    part = page.gpu_parts.PARTS["step"]
    lines = [
        {"part": "environment", "tiny": False, **MACHINE},
        {"part": "step", "row": part.rows[1], "values": {"ms": 2.5}, "at": 3.0},
        {"part": "seeds", "row": {"seeds": 4}, "error": "NotAvailable: no config.seeds"},
    ]
    (tmp_path / "gpu.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page.text(tmp_path)
    rows = cells(text, part.title)
    assert rows[1] == ["64", "tf32", "skd", "2.500", "", "", "", ""]
    assert not any(any(row[3:]) for row in rows[:1] + rows[2:])
    assert "1 x Card; Processor, 2 cores, no AVX-512 (avx2); Python 3.12.0, jax 0.11.0" in text
    assert "seeds 4: NotAvailable: no config.seeds" in text
    rehearsal = [{**lines[0], "tiny": True}, *lines[1:]]
    (tmp_path / "gpu.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rehearsal))
    assert "2.500" not in page.text(tmp_path) and "NotAvailable" not in page.text(tmp_path)


def test_a_command_names_no_path_of_the_machine(modules, monkeypatch):
    flags = [
        "step",
        "--batch=8",
        "--torch_python=/home/me/python",
        "--mdistiller=/home/me/mdistiller",
        "--out=/home/me",
    ]
    monkeypatch.setattr("sys.argv", [str(ROOT / "benchmarks" / "run.py"), *flags])
    wanted = "python benchmarks/run.py step --batch=8 --torch_python=PYTHON --mdistiller=DIR"
    assert modules[1].command() == wanted


def test_a_result_becomes_a_section_and_its_goals(modules, tmp_path):
    page, record = modules
    goals = [record.Goal("ours / theirs", 1.0, 0.9), record.Goal("warm / alone", 1.05, None, "not available")]
    table = record.Table("a pair", ("step", "ms", "bytes"), [["kd", 12.3456, 1234567], ["skd", None, None]])
    measured = record.Measured([table], goals, ["a note"])
    path = record.write(tmp_path, "step", measured, "0.10 0.20 0.30")
    facts = json.loads(path.read_text())
    assert path.name.startswith("step-") and facts["versions"]["jax"] in path.name and facts["cpu"]["cores"] >= 1
    page.write(tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| kd | 12.346 | 1,234,567 |" in text and "| skd |  |  |" in text and "- a note" in text
    assert "| ours / theirs | <= 1 | 0.900 |" in text and "| warm / alone | <= 1.05 |  | not available |" in text
    assert facts["date"] in text and "load 0.10 before" in text
