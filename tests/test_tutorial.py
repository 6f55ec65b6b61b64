"""docs/tutorial.ipynb runs from its first cell to its last, and what it trains learns."""

import json

import pytest

from tests.conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run(**changes: str) -> dict:
    space = {}
    for source in CODE:
        for text, other in changes.items():
            source = source.replace(text, other)
        exec(source, space)
    return space


@pytest.mark.usefixtures("tiny_resnet8")
def test_it_runs():
    space = run(**{"64, 150": "64, 2", '"resnet14"': '"resnet8x4"'})
    assert space["STEPS"] == 2 and set(space["results"]) == {"alone", "kd", "skd"}


@pytest.mark.full
def test_it_learns():
    space = run()
    assert all(result > 0.7 for result in space["results"].values()), space["results"]  # chance is 0.1


def test_nothing_is_stored_in_it():
    """Outputs belong to whoever runs it."""
    assert all(
        not cell["outputs"] and cell["execution_count"] is None for cell in NOTEBOOK["cells"] if "outputs" in cell
    )
