"""Checks of a mesh whose second axis splits parameters;
tests/distributed/test_mesh.py runs it with four forced CPU devices.

python -m tests.distributed.fsdp FOLDER steps|runs
"""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
from etils import epath

import kd_jax
from kd_jax import methods
from kd_jax.distributed.mesh import SMALL, Layout
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.networks import network_digest
from kd_jax.train import run, saved_state
from kd_jax.train.evaluate import saved
from tests.conftest import tree
from tests.distributed.devices import KEY, batches, far
from tests.shared_programs import sharing
from tests.tiny import TinyNet, in_place

STUDENT = TinyNet(widths=(32, 64))
SKD = methods.skd(bound=0.5, simplifier="batch", student_temperature=None)
DISTILLER = methods.chain(skd=SKD, ce=methods.ce(weight=0.1), kd=methods.kd(weight=0.9))
TX = {
    "momentum": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.9)),
    "adamw": optax.adamw(1e-3),
}
STEPS = 3


def prediction(state, fsdp):
    """Bytes of a state that one device holds, from shapes alone: what the documentation says."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        splits = any(n % fsdp == 0 for n in leaf.shape) and leaf.size >= SMALL and ".stats" not in str(path)
        total += leaf.size * leaf.dtype.itemsize // (fsdp if splits else 1)
    return total


def trained(mesh, tx, distiller=DISTILLER, scope="global", **how):
    """The state after some steps; bytes of all arguments of the compiled step on one device, and as predicted."""
    layout = Layout(mesh, scope)
    parts = {"student": STUDENT, "distiller": distiller, "tx": tx}
    context = kd_jax.make_init_context(STUDENT, (STUDENT,), image_shape=(8, 8, 3), batch_size=16)
    state = jax.jit(lambda: kd_jax.init_state(KEY, context=context, **parts))()
    places, predicted = layout.split(state), prediction(state, layout.fsdp)
    step = partial(kd_jax.train_step, **parts, **how, sharding=layout.param_sharding, axis_name=layout.axis_name)
    where = {"ins": (places, "b", "b", "r"), "outs": (places, "r")}
    step = layout.jit(layout.jit_step(step, **where), **where)
    state, compiled = layout.put(state, "s"), None
    for _, (batch, taught) in zip(range(STEPS), batches(), strict=False):
        given = layout.put((taught, batch), "b")
        compiled = compiled or step.lower(state, *given, KEY).compile()
        state, _ = compiled(state, *given, layout.put(KEY))
    read = sum(x.nbytes for x in jax.tree.leaves(given)) // layout.count
    return layout.whole(state), compiled.memory_analysis().argument_size_in_bytes, predicted + read


def check_steps():
    for name, tx in TX.items():
        (one, most, _), sizes = trained((4,), tx), []
        for mesh in ((2, 2), (1, 4)) if name == "momentum" else ((2, 2),):
            state, size, predicted = trained(mesh, tx)
            for part in ("params", "stats", "opt"):
                assert far(getattr(one, part), getattr(state, part)) < 1e-5, (name, mesh, part)
            assert abs(size - predicted) < 0.05 * predicted, (name, mesh, size, predicted)
            sizes.append(size)
        assert all(b < 0.65 * a for a, b in zip([most, *sizes], sizes, strict=False)), (most, sizes)
    return one


def check_parts():
    """A batch that every device cuts for itself is the batch that one device cuts."""
    distiller = methods.chain(ce=methods.ce(weight=0.1), kd=methods.kd(weight=0.9))
    one, *others = (trained(mesh, TX["momentum"], distiller, accumulate=2)[0] for mesh in ((1,), (4,), (2, 2)))
    for other in others:
        for part in ("params", "stats", "opt"):
            assert far(getattr(one, part), getattr(other, part)) < 1e-5, part
    pair = [trained((4,), TX["momentum"], distiller, "device", accumulate=2, scan=scan)[0] for scan in (False, True)]
    assert far(pair[0].params, pair[1].params) < 1e-5 < far(one.params, pair[0].params)


def check_checkpoints(folder, state):
    """What is saved under one mesh is restored under any other, bit for bit."""
    layout = Layout((2, 2))
    writer = Checkpoints(epath.Path(folder))
    writer.save(7, saved_state.split(layout.put(state, "s"), {"n": layout.put(np.int32(7))}), {})
    writer.wait()
    for mesh in ((4,), (2, 2), (1, 4), (1,)):
        layout = Layout(mesh)
        like, extra = (layout.like(jax.tree.map(np.asarray, x)) for x in (state, {"n": np.int32(0)}))
        items, meta = Checkpoints(epath.Path(folder), read_only=True).restore(saved_state.split(like, extra))
        restored, _ = saved_state.join(like, extra, items, int(state.step))
        assert meta["digests"]["network"] == network_digest(state.student), mesh
        assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s.sharding, x.ndim), restored, like))
        assert jax.tree.all(jax.tree.map(np.array_equal, layout.whole(restored), state)), mesh
    kernel = layout.split(state).params["student"]["conv2"]["kernel"]
    assert kernel.is_fully_replicated
    kernel = Layout((2, 2)).split(state).params["student"]["conv2"]["kernel"]
    assert kernel.spec == jax.sharding.PartitionSpec(None, None, None, "fsdp")


def check_run(home):
    """A run, its teacher split too, goes on under another mesh where it stopped, and ends where others do."""
    whole = {"student__steps": 6, "checkpoint__every": 3, "checkpoint__keep": 9, "student__ema": 0.5}
    whole |= {"student__optim__lr": 0.01, "student__batch_size": 16, "student__accumulate": 1}
    config_tree = json.loads(json.dumps(tree(**whole)))
    for name, mesh in (("a", [4]), ("b", [2, 2])):
        run.run({**config_tree, "parallel": {"scope": "global", "mesh": mesh}}, str(home / name))
    (home / "b" / "student" / "DONE").unlink()
    (home / "b" / "summary.json").unlink()
    shutil.rmtree(home / "b" / "student" / "checkpoints" / "6")
    shutil.copytree(home / "b", home / "c")
    for name, mesh in (("b", [2, 2]), ("c", [4])):
        run.run({**config_tree, "parallel": {"scope": "global", "mesh": mesh}}, str(home / name))
    for network in ("", "ema"):
        ends = [saved(str(home / name), network=network) for name in "abc"]
        assert all(step == 6 and far(ends[0][1], end) < 1e-4 for _, end, step in ends)


def main(folder, part):
    """part: "steps" or "runs"."""
    home = Path(folder)
    if part == "steps":
        check_checkpoints(home / "saved", check_steps())
    else:
        check_parts()
        with in_place(), sharing():
            check_run(home)
    print("same")


if __name__ == "__main__":
    main(*sys.argv[1:])
