"""Variables say what they hold: words that could hold anything are no names here."""

import ast

import pytest

from tests.conftest import ROOT

VAGUE = {"own", "known", "made", "found", "told", "seen", "kept", "judge", "judged"}
FOLDERS = ("kd_jax", "configs", "launch", "tests", "docs")


def names(tree):
    """What a file names by itself: variables, arguments, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_say_what_they_hold(folder):
    for file in sorted((ROOT / folder).rglob("*.py")):
        vague = [f"{file}:{line}: {name}" for name, line in names(ast.parse(file.read_text())) if name in VAGUE]
        assert not vague, vague
