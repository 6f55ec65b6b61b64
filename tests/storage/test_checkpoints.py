"""Checkpoints: exact, and never garbage."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from etils import epath

from kd_jax import InputError
from kd_jax.distributed.mesh import Layout
from kd_jax.engine.state import TrainState
from kd_jax.storage import digests
from kd_jax.storage.checkpoints import Checkpoints, StorageError
from kd_jax.storage.digests import digest, sequential
from kd_jax.storage.networks import read_network
from kd_jax.train import saved_state
from tests.conftest import ROOT


def state(step=3):
    noise = jax.random.normal(jax.random.key(step), (64, 64))  # incompressible: a flipped byte decodes without error
    params = {"student": {"w": noise}, "method": {"skd": {"q": jnp.ones(2) * step}}}
    tx = optax.partition(
        {"a": optax.sgd(0.1, momentum=0.9), "b": optax.sgd(0.2, momentum=0.9)}, {"student": "a", "method": "b"}
    )
    stats = {"student": {"mean": jnp.zeros(3)}, "method": {}}
    return TrainState(jnp.int32(step), params, stats, tx.init(params), {}, {})


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def saved(tmp_path):
    said = []
    checkpoints = Checkpoints(epath.Path(tmp_path / "phase"), keep=2, say=said.append)
    for step in (1, 2, 3):
        save(checkpoints, step, {"phase": "p"})
    checkpoints.wait()
    return checkpoints, said, tmp_path / "phase"


def save(checkpoints, step, meta, score=None):
    checkpoints.save(step, saved_state.split(state(step), {"sum": jnp.float32(step)}), meta, score)


def restore(checkpoints):
    like, extra = Layout().like((jax.eval_shape(state), {"sum": jax.ShapeDtypeStruct((), jnp.float32)}))
    restored = checkpoints.restore(saved_state.split(like, extra))
    return restored and (*saved_state.join(like, extra, restored[0], restored[1]["step"]), restored[1])


def test_round_trip(saved):
    checkpoints, said, _ = saved
    assert checkpoints.steps() == [3, 2]
    loaded, extra, meta = restore(checkpoints)
    same(loaded, state(3))
    assert float(extra["sum"]) == 3 and meta["phase"] == "p" and meta["step"] == 3 and not said
    network, meta = read_network(checkpoints)
    same(network, state(3).student)
    assert meta["digests"]["network"] == digest({"params": network.params, "stats": network.stats})
    assert checkpoints.good(3) and not checkpoints.good(1)


def test_the_last_ones_and_the_best_one_stay(tmp_path):
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=2, best=1)
    for step, score in enumerate([0.3, 0.9, None, 0.5, 0.4, None], 1):
        save(checkpoints, step, {}, score)
    checkpoints.wait()
    assert checkpoints.steps() == [6, 5, 2]
    same(read_network(checkpoints, 2)[0], state(2).student)


def test_nothing_there(tmp_path):
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=2)
    assert restore(checkpoints) is None
    with pytest.raises(InputError, match="holds no checkpoint with a good digest"):
        read_network(checkpoints)


def everything(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), ValueError("UNAVAILABLE: try again"), KeyError("x")]
)
def test_an_error_that_proves_nothing_moves_nothing(saved, monkeypatch, error):
    checkpoints, said, folder = saved
    before = everything(folder)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(checkpoints._orbax, "restore", fail)
    for read in (restore, lambda c: c.good(3), read_network):
        with pytest.raises(StorageError, match="checkpoints/3: cannot be read .*every file stays where it is") as e:
            read(checkpoints)
        assert "\n" not in str(e.value)
    monkeypatch.undo()
    assert everything(folder) == before and not said and restore(checkpoints)[2]["step"] == 3


def test_a_file_that_cannot_be_read_moves_nothing(saved, monkeypatch):
    """tensorstore says NOT_FOUND, but the disk itself does not answer."""
    checkpoints, said, folder = saved
    before, disk = everything(folder), type(epath.Path(folder))
    plain = disk.open
    monkeypatch.setattr(
        checkpoints._orbax, "restore", lambda *a, **k: (_ for _ in ()).throw(ValueError("NOT_FOUND: no manifest"))
    )

    def stale(self, *args, **kwargs):
        if self.name == "manifest.ocdbt":
            raise OSError(116, "Stale file handle")
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(disk, "open", stale)
    with pytest.raises(StorageError, match="Stale file handle"):
        restore(checkpoints)
    assert everything(folder) == before and not said


def test_a_changed_structure_moves_nothing(saved):
    """An optimiser with another state, a parameter of another shape or type: the run stops, the step stays."""
    checkpoints, said, folder = saved
    before = everything(folder)
    like = Layout().like(saved_state.split(jax.eval_shape(state), {"sum": jax.ShapeDtypeStruct((), jnp.float32)}))
    trace = next(name for name in like["training"] if "trace" in name)
    wider = {**like["network"]["params"], "w": like["network"]["params"]["w"].update(shape=(64, 65))}
    for changed, message in (
        (
            {**like, "training": {**like["training"], "['opt'].nu": like["network"]["stats"]["mean"]}},
            r"nu.* is absent",
        ),
        (
            {**like, "training": {k: v for k, v in like["training"].items() if k != trace}},
            "float32 .*this run has none",
        ),
        ({**like, "network": {**like["network"], "params": wider}}, r"\(64, 64\), but this run has float32 \(64, 65\)"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoints.restore(changed)
    assert everything(folder) == before and not said


@pytest.mark.parametrize("name", ["abl[T=4]", "a * b", "what?", "{x,y}", "100%", "%20", "a#b", "x**y", "é"])
def test_a_folder_of_any_name(tmp_path, name):
    """What was saved can be read back under the path as given."""
    for folder in (tmp_path / name, tmp_path / name / "run"):
        checkpoints = Checkpoints(epath.Path(folder))
        save(checkpoints, 3, {})
        checkpoints.wait()
        same(restore(checkpoints)[0], state(3))
        same(read_network(Checkpoints(epath.Path(folder), read_only=True))[0], state(3).student)


def test_an_older_checkpoint(tmp_path):
    """Host arrays, digests of all bytes in a row, and none of the meta."""
    items = jax.tree.map(np.asarray, saved_state.split(state(3), {"sum": jnp.float32(3)}))
    meta = {"phase": "p", "step": 3, "digests": {name: sequential(item) for name, item in items.items()}}
    writer = ocp.CheckpointManager(tmp_path / "checkpoints", item_names=("network", "training", "meta"))
    trees = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    writer.save(3, args=ocp.args.Composite(**trees, meta=ocp.args.JsonSave(meta)))
    writer.wait_until_finished()
    loaded, extra, read = restore(Checkpoints(epath.Path(tmp_path)))
    same((loaded, extra["sum"]), (state(3), jnp.float32(3)))
    assert read == meta
    same(read_network(Checkpoints(epath.Path(tmp_path), read_only=True))[0], state(3).student)


def test_the_meta_has_a_digest_too(saved, quiet_orbax):
    checkpoints, said, folder = saved
    file = next(path for path in files(folder) if path.name == "metadata")
    text = (folder / file).read_text()
    (folder / file).write_text(text.replace('"phase": "p"', '"phase": "q"'))
    assert text != (folder / file).read_text() and restore(checkpoints)[2]["step"] == 2
    assert "digest of its meta does not match" in said[0] and (folder / "damaged" / "3").exists()


def test_a_digest_of_a_newer_version_is_not_damage(saved, monkeypatch):
    checkpoints, said, folder = saved
    before = everything(folder)
    monkeypatch.setattr(digests, "OF_KIND", {1: sequential})
    with pytest.raises(InputError, match="checkpoints/3: was saved by a newer version of kd_jax"):
        restore(checkpoints)
    assert everything(folder) == before and not said


def test_what_is_saved_is_what_was_there(tmp_path):
    """The buffers are used up by the next step while they are written."""
    checkpoints, first = Checkpoints(epath.Path(tmp_path)), jax.jit(jnp.copy)(state(3).params["student"]["w"])
    checkpoints.save(3, {"network": {"w": first}}, {})
    jax.jit(lambda x: x * 0, donate_argnums=0)(first)
    checkpoints.wait()
    assert np.array_equal(checkpoints.read("network")[0]["network"]["w"], state(3).params["student"]["w"])


def test_the_digest_sees_every_change():
    tree = {"a": jnp.zeros(3), "b": {"c": jnp.ones((2, 2))}}
    values = {
        digest(t)
        for t in (
            tree, {**tree, "a": tree["a"].at[1].set(1e-30)}, {**tree, "a": jnp.zeros((3, 1))},
            {**tree, "a": jnp.zeros(3, jnp.int32)}, {"a2": tree["a"], "b": tree["b"]}, {"a": tree["a"]},
        )
    }  # fmt: skip
    assert len(values) == 6 and digest(tree) == digest(jax.tree.map(np.asarray, tree))


def files(folder):
    return sorted(
        p.relative_to(folder) for p in (folder / "checkpoints" / "3").rglob("*") if p.is_file() and p.stat().st_size
    )


@pytest.mark.parametrize("ways", [("flip",), pytest.param(("cut", "delete"), marks=pytest.mark.full)], ids="-".join)
def test_a_damaged_file_never_loads_as_something_else(saved, quiet_orbax, ways):
    """Every file of a step, one byte flipped, cut in half or gone: the same state, or the one before it."""
    import shutil

    _, _, folder = saved
    outcomes = set()
    for name in files(folder):
        for how in ways:
            copy = folder.parent / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            raw = bytearray((copy / name).read_bytes())
            if how == "flip":
                raw[len(raw) // 2] ^= 0xFF
                (copy / name).write_bytes(raw)
            elif how == "cut":
                (copy / name).write_bytes(raw[: len(raw) // 2])
            else:
                (copy / name).unlink()
            said = []
            loaded, _, meta = restore(Checkpoints(epath.Path(copy), keep=2, say=said.append))
            same(loaded, state(meta["step"]))
            assert meta["step"] in (2, 3)
            assert bool(said) == (meta["step"] == 2) == (copy / "damaged" / "3").exists()
            assert all("digest" in line and "/checkpoints/3" in line for line in said)
            outcomes.add((meta["step"], "does not match" in "".join(said)))
    assert (2, False) in outcomes  # Orbax noticed
    assert ((2, True) in outcomes) == ("flip" in ways)  # Orbax did not: the digest did


def test_after_a_damaged_step_training_can_save_it_again(saved, quiet_orbax):
    checkpoints, said, folder = saved
    largest = max(files(folder), key=lambda p: (folder / p).stat().st_size)
    (folder / largest).write_bytes(b"")
    again = Checkpoints(epath.Path(folder), keep=2, say=said.append)
    assert restore(again)[2]["step"] == 2
    save(again, 3, {"phase": "p"})
    again.wait()
    same(restore(again)[0], state(3))


FULL = """
import resource, sys
import numpy as np
from etils import epath
from kd_jax.storage import digests
from kd_jax.storage.checkpoints import Checkpoints, StorageError

noise = np.random.default_rng(0)
items = {n: {str(i): noise.normal(size=5000).astype(np.float32) for i in range(200)} for n in ("network", "training")}
checkpoints = Checkpoints(epath.Path(sys.argv[1]))
checkpoints.save(1, items, {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))  # no file may grow larger, as on a disk that is full
try:
    checkpoints.save(2, items, {})
    checkpoints.wait()
except StorageError as e:
    sys.exit(f"error: {e}")
"""


def test_a_full_disk_says_one_line(tmp_path):
    """And not what Orbax, asyncio and tensorstore say around it."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and not done.stdout
    assert re.fullmatch(r"error: .*: cannot save a checkpoint \(.*\); those before it are kept\n", done.stderr)
    assert Checkpoints(epath.Path(tmp_path), read_only=True).steps() == [1]
