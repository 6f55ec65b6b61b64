"""The digest of a tree: of its content alone, wherever the parts lie, and whoever hashes them."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from kd_jax.distributed import processes
from kd_jax.storage import digests
from tests.conftest import ROOT

SPLIT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from kd_jax.storage import digests

rng = np.random.default_rng(0)
shapes = {"even": (64, 48), "odd": (100, 12, 3), "other axis": (48, 128), "vector": (4096,), "small": (3,), "one": ()}
tree = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
devices = np.array(jax.devices())
found = {digests.digest(tree)}
for count in (1, 2, 4, 8):
    for axis in range(3):
        mesh = jax.sharding.Mesh(devices[:count].reshape(1, count), ("data", "fsdp"))

        def place(x):
            splits = x.ndim > axis and x.shape[axis] % count == 0
            return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp" if splits else None)))

        placed = {name: place(x) if x.ndim > axis else x for name, x in tree.items()}
        found.add(digests.digest(placed))
        assert digests.sequential(placed) == digests.sequential(tree)
print(len(found))
"""


def test_no_mesh_changes_it():
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SPLIT], capture_output=True, text=True, cwd=ROOT, env=env)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_every_piece_counts():
    array = np.zeros((128, 16), np.float32)
    changed = [array.copy() for _ in range(4)]
    for i, place in enumerate([(0, 0), (127, 15), (64, 0), (63, 15)]):
        changed[i][place] = 1e-30
    swapped = array.copy()
    swapped[:2], swapped[2:4] = 1, 2
    back = swapped[[2, 3, 0, 1, *range(4, 128)]]
    assert len({digests.digest({"a": x}) for x in (array, *changed, swapped, back)}) == 7


def test_each_of_several_processes_hashes_its_own_pieces(monkeypatch):
    """Process 0 hashes what is everywhere; what is not here comes from the others, and all get one digest."""

    class Elsewhere(np.ndarray):
        """An array that lies in both processes."""

    tree = {"a": np.arange(4096, dtype=np.float32).view(Elsewhere), "b": np.ones(3)}
    whole, brought = digests.digest(tree), {}
    monkeypatch.setattr(digests, "_is_here", lambda leaf: not isinstance(leaf, Elsewhere))
    for name, is_main in (("first", True), ("second", False)):
        monkeypatch.setattr(processes, "is_main", lambda is_main=is_main: is_main)
        monkeypatch.setattr(digests, "_whole", np.asarray)
        monkeypatch.setattr(processes, "merge", lambda mine, name=name: brought.setdefault(name, mine))
        digests.digest(tree)
    assert brought["first"].any(axis=1).all() and not brought["second"][:-1].any()
    monkeypatch.setattr(processes, "merge", lambda mine: np.maximum(*brought.values()))
    assert digests.digest(tree) == whole


def test_process_0_decides_for_all(monkeypatch):
    assert processes.from_main(lambda: {"a": (1, None)}) == {"a": [1, None]}
    asked, answer = [], b'{"steps": 7}'
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "is_main", lambda: False)
    monkeypatch.setattr(processes, "agree_max", lambda number: None)
    monkeypatch.setattr(processes, "all_max", lambda length: (max(length, len(answer)),))
    monkeypatch.setattr(processes, "merge", lambda mine: np.maximum(mine, np.frombuffer(answer, np.uint8)))
    assert processes.from_main(lambda: asked.append("this process")) == {"steps": 7} and not asked


@pytest.mark.parametrize("dtype", ["bfloat16", "int32", "bool"])
def test_of_any_type(dtype):
    array = np.arange(2048).reshape(32, 64) % 2
    tree = {"a": jax.numpy.asarray(array, dtype)}
    assert digests.digest(tree) == digests.digest(jax.tree.map(np.asarray, tree))
    assert digests.digest(tree) != digests.digest({"a": jax.numpy.asarray(1 - array, dtype)})
