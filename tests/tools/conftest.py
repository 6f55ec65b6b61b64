"""Folders that tests of the tools read."""

import json

import pytest

from tests.tools.reports import TOP1, put


@pytest.fixture
def home(tmp_path):
    """A sweep of three temperatures and three seeds: a run failed, one is unfinished."""
    cells = []
    for value in ("1", "4", "8"):
        for seed in range(3):
            name = f"student.refine.skd.temperature={value}"
            folder = tmp_path / "sweep" / name / f"seed={seed}"
            settings, below = {"student.refine.skd.temperature": value}, f"{name}/seed={seed}"
            cell = {
                "name": name,
                "seeds": [seed],
                "settings": settings,
                "folder": below,
                "command": "python launch/train.py",
            }
            cells.append(cell)
            if (value, seed) != ("8", 2):
                put(folder, value, seed, TOP1.get((value, seed)))
    failed = tmp_path / "sweep" / "student.refine.skd.temperature=8" / "seed=1" / "output.txt"
    failed.write_text("$ python\nerror: phase student, step 3: kd is not finite\n")
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"baseline": "", "cells": cells}))
    return tmp_path / "sweep"
