"""Who may import whom, read from the source."""

import ast

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "kd_jax"
FLOOR = {
    "typing": 0,
    "hosts": 0.5,
    "losses": 1, "layers": 1, "models": 1.2, "data": 1, "config": 1, "writers": 1, "signals": 1, "workdir": 1.5,
    "supervisor": 1,
    "methods": 2, "engine": 3, "parallel": 4, "checkpoints": 4, "batches": 4.5,
    "teachers": 5, "recipes": 5, "members": 5.05, "origins": 5.05, "optimisers": 5.05, "build": 5.1,
    "programs": 5.2, "feed": 5.3,
    "report": 6, "phase": 6.1, "loop": 6.2, "dry_run": 6.3, "evaluate": 6.3, "exchange": 6.3,
    "combinations": 6.3, "listing": 6.4, "cli": 6,
}  # fmt: skip


def imports(path):
    """Dotted names a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(dotted):
    pieces = dotted.split(".")
    return pieces[1] if pieces[0] == "kd_jax" and len(pieces) > 1 and pieces[1] in FLOOR else None


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        other = part(name)
        if other is None or other == own:
            continue
        assert FLOOR[other] < FLOOR[own], f"{own} imports {name}"
    if own == "engine":  # never a named method or model
        named = [n for n in imports(path) if n.startswith(("kd_jax.methods", "kd_jax.models"))]
        assert all(n.split(".")[2:3] == ["base"] for n in named), named


def test_every_room_has_a_floor():
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in FILES}
    assert rooms == set(FLOOR)


def users_of(*names):
    return {
        str(p.relative_to(ROOT))
        for top in ("kd_jax", "configs", "launch")
        for p in (ROOT / top).rglob("*.py")
        if any(n == name or n.startswith(name + ".") for n in imports(p) for name in names)
    }


def test_who_may_use_what():
    assert users_of("ml_collections") <= {"kd_jax/recipes.py", "kd_jax/cli.py"}
    assert users_of("orbax") == {"kd_jax/checkpoints.py"}
    assert users_of("matplotlib") == {"kd_jax/report.py"}
    assert not users_of("tensorflow", "torch")
    for path in FILES:
        source = path.read_text()
        if path.name != "parallel.py":
            assert "jax.jit(" not in source and "@jax.jit" not in source and "shard_map(" not in source, path
        if "stop_gradient(" in source:  # detached once, where the teacher's outputs are made; in SFTN's first phase and
            assert path.name in ("step.py", "sftn.py", "dml.py")  # in DML the one who teaches is in training too


def test_import_needs_no_tensorflow():
    import subprocess
    import sys

    heavy = ("tensorflow", "tensorflow_datasets", "torch", "sklearn")
    code = f"import sys, kd_jax, kd_jax.loop; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
