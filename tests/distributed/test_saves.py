"""Two processes save split parameters: each its own parts, with the digest that one process finds."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
from etils import epath

from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.digests import digest
from tests.conftest import ROOT

SAVES = """
import sys
import jax, numpy as np
from etils import epath
from kd_jax.distributed import processes
from kd_jax.distributed.mesh import Layout
from kd_jax.storage.checkpoints import Checkpoints
from tests.distributed.test_saves import tree

processes.connect(sys.argv[2], 2, int(sys.argv[3]))

folder = epath.Path(sys.argv[1])
layout = Layout((1, 4))
writer = Checkpoints(folder)
writer.save(3, {"network": layout.put(tree(), "s")}, {"phase": "p"})
writer.wait()
for shape in ((2, 2), (1, 4), (4,)):
    layout = Layout(shape)
    items, meta = Checkpoints(folder, read_only=True).restore({"network": layout.like(tree())})
    for name, leaf in items["network"]["params"].items():
        for shard in leaf.addressable_shards:
            assert np.array_equal(shard.data, tree()["params"][name][shard.index]), (shape, name)
print(writer.steps(), meta["step"])
writer.close()
"""


def tree():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 16, 64), "other axis": (102, 64), "vector": (2048,), "bias": (8,)}
    return {"params": {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, "stats": {}}


def test_split_parameters_are_saved_by_those_who_hold_them(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    env = {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}
    env["PYTHONPATH"] = str(ROOT)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SAVES, str(tmp_path), address, str(i)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in running:
        said, errors = process.communicate(timeout=200)
        assert process.returncode == 0 and said.endswith("[3] 3\n"), errors[-3000:]
    items, meta = Checkpoints(epath.Path(tmp_path), read_only=True).read("network")
    jax.tree.map(np.testing.assert_array_equal, items["network"], tree())
    assert meta["digests"]["network"] == digest(tree())
    written = {path.name for path in (tmp_path / "checkpoints" / "3" / "network").iterdir()}
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= written  # each process has written
