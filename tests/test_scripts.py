"""Scripts outside the package import late and are seldom run: every name of kd_jax that they use exists."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = sorted(
    path for folder in ("benchmarks", "configs", "docs", "launch") for path in (ROOT / folder).glob("*.py")
)
OURS = {"kd_jax", "configs", *(path.stem for path in (ROOT / "benchmarks").glob("*.py"))} - {
    "torch_networks"
}  # an extra


def missing(path: Path) -> list[str]:
    """What a script imports from our modules, or reads as an attribute of one, and is not there."""
    nodes, modules, absent = list(ast.walk(ast.parse(path.read_text()))), {}, []
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {a.asname or a.name: import_module(a.name) for a in node.names if a.name.split(".")[0] in OURS}
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
            for alias in node.names:
                try:
                    held = _attribute(import_module(node.module), alias.name)
                except (AttributeError, ImportError) as e:
                    absent.append(str(e))
                    continue
                if isinstance(held, type(ast)):
                    modules[alias.asname or alias.name] = held
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    stored |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if node.value.id not in stored and not hasattr(module, node.attr):
                absent.append(f"{module.__name__} has no {node.attr}")
    return absent


def _attribute(module, name: str):
    """What `from module import name` binds."""
    return getattr(module, name) if hasattr(module, name) else import_module(f"{module.__name__}.{name}")


@pytest.fixture(autouse=True)
def beside_benchmarks(monkeypatch):
    """Benchmarks import each other by their bare names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in OURS:
            del sys.modules[name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_exists(path):
    assert not missing(path)


def test_a_missing_name_is_found(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from kd_jax import nothing\nfrom kd_jax.train import run\nimport step\nrun.gone()\nstep.gone()\n"
    )
    absent = missing(script)
    assert len(absent) == 3 and "kd_jax.nothing" in absent[0]
    assert absent[1:] == ["kd_jax.train.run has no gone", "step has no gone"]
