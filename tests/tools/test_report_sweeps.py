"""Reports on sweeps: phases that cells share, several sweeps at once."""

import json
import shutil
from pathlib import Path

import pytest

from kd_jax import InputError
from kd_jax.tools import report, report_formats, report_runs, report_tables
from tests.tools.reports import TOP1, put


def shared_kd(home):
    """A sweep of two temperatures of SKD beside one KD, whose phases the cells of a seed link."""
    cells = []
    for value in ("1", "4"):
        for seed in range(2):
            folder = f"T={value}/seed={seed}"
            put(home / folder, value, seed, TOP1[value, seed])
            for file in ("config.json", "summary.json"):
                held = json.loads((home / folder / file).read_text())
                config_tree = held if file == "config.json" else held["config"]
                config_tree["phases"], config_tree["kd"] = ["teacher", "kd", "student"], config_tree["student"]
                if file == "summary.json":
                    held["phases"]["kd"] = held["phases"]["teacher"] | {"top1_last": 0.4 + 0.1 * seed}
                (home / folder / file).write_text(json.dumps(held))
            cell = {"name": f"T={value}", "seeds": [seed], "settings": {"T": value}, "folder": folder, "command": "c"}
            cell |= {"links": {"kd": f"shared/kd-{seed}", "teacher": "shared/t"}, "phases": ["kd", "student"]}
            cells.append(cell)
    (home / "sweep.json").write_text(json.dumps({"baseline": "", "cells": cells}))
    return home


def rows_of(*homes, baseline=""):
    results = report_runs.find(map(str, homes))
    return report_tables.rows_of(results.runs, baseline, results.baseline)


def test_a_phase_that_cells_share_is_one_row(tmp_path):
    rows = rows_of(shared_kd(tmp_path), baseline="phase=kd")
    assert [(row.label, len(row.values)) for row in rows] == [("kd", 2), ("student: T=1", 2), ("student: T=4", 2)]
    assert rows[0].gap is None and rows[1].gap.mean == pytest.approx(0.1)


@pytest.mark.parametrize("failed", [("1",), ("1", "4")])
def test_a_shared_phase_is_done_whatever_becomes_of_its_cells(tmp_path, failed):
    home = shared_kd(tmp_path)
    for seed in range(2):
        if len(failed) == 2:  # then it is read where it was trained
            shutil.copytree(home / f"T=1/seed={seed}", home / f"shared/kd-{seed}")
            tree = json.loads((home / f"shared/kd-{seed}/config.json").read_text()) | {"phases": ["teacher", "kd"]}
            (home / f"shared/kd-{seed}/config.json").write_text(json.dumps(tree))
        for value in failed:
            (home / f"T={value}/seed={seed}/summary.json").unlink()
            (home / f"T={value}/seed={seed}/output.txt").write_text("$ python\nerror: no data\n")
    rows = rows_of(home)
    assert [(row.label, len(row.values), len(row.missing)) for row in rows] == [
        ("kd", 2, 0), ("student: T=1", 0, 2), ("student: T=4", 2 * (len(failed) == 1), 2 * (len(failed) == 2)),
    ]  # fmt: skip


@pytest.mark.parametrize("file", ["config.json", "summary.json"])
@pytest.mark.parametrize("text", ['{"phases": ', "[]", "", '{"phases": {}}'])
def test_a_damaged_file_of_a_cell_costs_that_cell(tmp_path, file, text):
    damaged = shared_kd(tmp_path) / "T=1/seed=0" / file
    damaged.write_text(text)
    rows = rows_of(tmp_path)
    assert {row.label: len(row.values) for row in rows} == {"kd": 2, "student: T=1": 1, "student: T=4": 2}
    (missing,) = [run for row in rows for run in row.missing]
    assert missing.state.startswith(f"damaged: {damaged}: ")
    assert report._lacking(rows) == ["note: of 6 runs 1 damaged"]
    if file == "summary.json":
        with pytest.raises(InputError, match=f"{damaged}: (not readable JSON|is no summary of a run)"):
            rows_of(damaged.parent)


def labels_of(*homes):
    return [(row.label, len(row.runs)) for row in rows_of(*homes)]


def test_two_sweeps_with_the_same_cells_keep_their_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    homes = [shared_kd(Path(name)) for name in ("a", "b")]
    record = json.loads(Path("a/sweep.json").read_text())
    for home in homes:
        (home / "sweep.json").write_text(json.dumps(record | {"baseline": "T=4"}))
    labels = [f"{label} in {home}" for home in homes for label in ("kd", "student: T=1", "student: T=4")]
    assert sorted(labels_of(*homes)) == sorted((label, 2) for label in labels)
    assert [row.label for row in rows_of(*homes) if row.gap is None] == ["student: T=4 in a"]
    with pytest.raises(InputError, match="--baseline=T=8: no row is called so"):
        rows_of(*homes, baseline="T=8")
    assert labels_of("a", "a/T=1", tmp_path / "a") == labels_of("a/T=1", "a") == labels_of("a")
    (homes[0] / "sweep.json").write_text(json.dumps(record | {"baseline": "gone"}))
    assert [row.label for row in rows_of("a") if row.gap is None] == ["kd"]


def test_seeds_that_trained_together_keep_their_rows(tmp_path, monkeypatch):
    """A cell with one seed, with two together and with three."""
    monkeypatch.chdir(tmp_path)
    cells = [
        {"name": "x", "seeds": seeds, "settings": {}, "folder": f"x/{folder}", "command": "c"}
        for folder, seeds in (("seed=0", [0]), ("seed=1", [1]), ("seeds=0-1", [0, 1]), ("seeds=0-2", [0, 1, 2]))
    ]
    Path("s").mkdir()
    Path("s/sweep.json").write_text(json.dumps({"baseline": "x", "cells": cells}))
    assert labels_of("s") == [("x", 2), ("x in s/x/seeds=0-1", 2), ("x in s/x/seeds=0-2", 3)]


def test_runs_that_have_not_begun_have_the_phases_of_their_cell(tmp_path):
    cell = {"name": "x", "seeds": [0], "settings": {}, "folder": "x/seed=0", "command": "c", "phases": ["kd", "skd"]}
    (tmp_path / "sweep.json").write_text(json.dumps({"baseline": "", "cells": [cell]}))
    rows = rows_of(tmp_path)
    assert [(row.label, row.missing[0].state) for row in rows] == [("kd", "missing"), ("skd", "missing")]


def test_configurations_of_other_tools_are_passed_over(tmp_path):
    shared_kd(tmp_path / "s")
    for name, text in (("a", '{"model_type": "resnet"}'), ("b", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    assert len(rows_of(tmp_path)) == 3
    with pytest.raises(InputError, match="no run in it"):
        rows_of(tmp_path / "a")


def test_the_folder_of_a_report(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "f").touch()
    for out, why in (("~/f", ""), ("~/f/sub", f"{tmp_path / 'f'} ")):
        with pytest.raises(InputError, match=f"--out={out}: {why}is a file, not a folder"):
            report.report([str(tmp_path)], out=out)
    shared_kd(tmp_path / "s")
    monkeypatch.setattr(report, "pictures", lambda *_: {})
    report.report(["~/s"], out="~/out")
    head = (tmp_path / "out" / "table.csv").read_text().splitlines()[0].split(",")
    assert head.count("phase") == 1 and "T" in head


def test_a_name_in_brackets_is_no_argument_of_the_line_before():
    text = report_formats.latex([("setting", "n"), ("[a]", "1"), ("b", "[2]"), ("*c", "3")], {0})
    assert [line[:4] for line in text.splitlines()[4:7]] == ["{}[a", "b & ", "{}*c"]
