"""Reports on sweeps: phases that cells share, several sweeps at once."""

import json
import shutil

import pytest

from kd_jax.tools import report_runs, report_tables
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
            cells.append(cell | {"links": {"kd": f"shared/kd-{seed}", "teacher": "shared/t"}})
    (home / "sweep.json").write_text(json.dumps({"baseline": "", "cells": cells}))
    return home


def rows_of(*homes, baseline=""):
    results = report_runs.find(map(str, homes))
    return report_tables.rows_of(results.runs, baseline)


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
