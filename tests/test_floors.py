"""Who may import whom, read from the source: kd_jax holds packages on floors, and a package imports from lower ones."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "kd_jax"
FLOOR = {
    "typing": 0,
    "losses": 1, "layers": 1, "data": 1, "config": 1, "distributed": 1,
    "models": 2, "storage": 2, "tasks": 2,
    "methods": 3, "interop": 3,
    "engine": 4,
    "recipes": 5,
    "plan": 6,
    "train": 7,
    "tools": 8,
}  # fmt: skip


def imports(path):
    """Dotted names a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(dotted):
    """The room of kd_jax that a dotted name lies in, None outside of kd_jax."""
    top, _, rest = dotted.partition(".")
    return rest.partition(".")[0] if top == "kd_jax" and rest else None


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    here = room_of(path)
    for name in imports(path):
        other = room(name)
        assert other in (None, here, "__version__") or FLOOR[other] < FLOOR[here], f"{here} imports {name}"
    if here == "engine":  # never a named method or model
        named = [n for n in imports(path) if n.startswith(("kd_jax.methods", "kd_jax.models"))]
        assert all(n.split(".")[2:3] in (["base"], ["network"]) for n in named), named


def test_every_room_has_a_floor():
    assert {room_of(p) for p in FILES} == set(FLOOR)
    assert {p.name for p in PACKAGE.iterdir() if p.is_file()} == {"__init__.py", "typing.py"}


def test_files_import_each_other_in_no_circle():
    def module(path):
        return ".".join(path.relative_to(ROOT).with_suffix("").parts)

    modules = {module(p) for p in FILES if p.name != "__init__.py"}
    graph = {}
    for path in FILES:
        named = {n if n in modules else n.rpartition(".")[0] for n in imports(path)}
        graph[module(path)] = named & modules - {module(path)}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_files_can_be_read_in_one_sitting():
    files = [*FILES, *(ROOT / "tests").rglob("*.py")]
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > 300}
    assert not long


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.name)
def test_configs_import_recipes_and_each_other(path):
    for name in imports(path):
        assert name == "kd_jax.recipes" or name.startswith(("kd_jax.recipes.", "configs.")), name


def users_of(*names):
    return {
        str(p.relative_to(ROOT))
        for top in ("kd_jax", "configs", "launch")
        for p in (ROOT / top).rglob("*.py")
        if any(n == name or n.startswith(name + ".") for n in imports(p) for name in names)
    }


def rooms_of(*names):
    return {"/".join(user.split("/")[: 2 if user.startswith("kd_jax") else 1]) for user in users_of(*names)}


def test_who_may_use_what():
    assert rooms_of("ml_collections") <= {"kd_jax/config", "kd_jax/recipes", "configs", "launch"}
    assert users_of("orbax") == {"kd_jax/storage/checkpoints.py"}
    assert users_of("matplotlib") == {"kd_jax/train/report.py", "kd_jax/tools/report_plots.py"}
    assert rooms_of("tensorflow_datasets", "grain", "array_record") <= {"kd_jax/data"}
    assert not users_of("tensorflow", "torch")
    for path in FILES:
        source = path.read_text()
        if path != PACKAGE / "distributed" / "mesh.py":
            calls = int(path == PACKAGE / "layers" / "convolution.py")  # that XLA is to leave alone; no program
            assert "jax.jit(" not in source and source.count("@jax.jit") == calls and "shard_map(" not in source, path
        if "stop_gradient(" in source:  # detached once, where the teacher's outputs are made; in SFTN's first phase and
            # in DML the one who teaches is in training too; EA-KD's weights are no part of what is lowered
            assert path.name in ("step.py", "sftn.py", "dml.py", "ea.py")


def loaded_by(code, names):
    """Which of the modules are loaded after some code has run in a fresh interpreter."""
    code = f"import sys; {code}; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_import_is_light():
    files = ("orbax", "grain", "matplotlib", "tensorflow_datasets", "simplejpeg", "cykooz", "PIL", "sklearn")
    rooms = tuple(
        f"kd_jax.{name}" for name in FLOOR if FLOOR[name] > 4 or name in ("data", "storage", "interop", "config")
    )
    heavy = ("tensorflow", "torch", *files, *rooms)
    assert loaded_by("import kd_jax", heavy) == "[]"
    heavy = ("tensorflow", "tensorflow_datasets", "torch", "sklearn", "matplotlib")
    assert loaded_by("import kd_jax.train.run", heavy) == "[]"
