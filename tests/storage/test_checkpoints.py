"""Checkpoints: exact, and never garbage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from kd_jax import InputError
from kd_jax.distributed.mesh import Layout
from kd_jax.engine.state import TrainState
from kd_jax.storage.checkpoints import Checkpoints, digest


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
        checkpoints.save(state(step), {"sum": jnp.float32(step)}, {"phase": "p"})
    checkpoints.wait()
    return checkpoints, said, tmp_path / "phase"


def restore(checkpoints):
    like = Layout().like(jax.eval_shape(state))
    return checkpoints.restore(like, {"sum": jax.ShapeDtypeStruct((), jnp.float32)})


def test_round_trip(saved):
    checkpoints, said, _ = saved
    assert checkpoints.steps() == [3, 2]
    found, extra, meta = restore(checkpoints)
    same(found, state(3))
    assert float(extra["sum"]) == 3 and meta["phase"] == "p" and meta["step"] == 3 and not said
    network, meta = checkpoints.network()
    same(network, state(3).student)
    assert meta["digests"]["network"] == digest({"params": network.params, "stats": network.stats})
    assert checkpoints.is_good(3) and not checkpoints.is_good(1)


def test_the_last_ones_and_the_best_one_stay(tmp_path):
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=2, best=1)
    for step, score in enumerate([0.3, 0.9, None, 0.5, 0.4, None], 1):
        checkpoints.save(state(step), {"sum": jnp.float32(step)}, {}, score)
    checkpoints.wait()
    assert checkpoints.steps() == [6, 5, 2]
    same(checkpoints.network(2)[0], state(2).student)


def test_nothing_there(tmp_path):
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=2)
    assert restore(checkpoints) is None
    with pytest.raises(InputError, match="holds no checkpoint with a good digest"):
        checkpoints.network()


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


def test_a_damaged_file_never_loads_as_something_else(saved, quiet_orbax):
    """Every file of a step, one byte flipped and cut in half: the same state, or the one before it."""
    import shutil

    _, _, folder = saved
    outcomes = set()
    for name in files(folder):
        for how in ("flip", "cut", "delete"):
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
            found, _, meta = restore(Checkpoints(epath.Path(copy), keep=2, say=said.append))
            same(found, state(meta["step"]))
            assert meta["step"] in (2, 3)
            assert bool(said) == (meta["step"] == 2) == (copy / "damaged" / "3").exists()
            assert all("digest" in line and "/checkpoints/3" in line for line in said)
            outcomes.add((meta["step"], "does not match" in "".join(said)))
    assert (2, False) in outcomes  # Orbax noticed
    assert (2, True) in outcomes  # Orbax did not: the digest did


def test_after_a_damaged_step_training_can_save_it_again(saved, quiet_orbax):
    checkpoints, said, folder = saved
    largest = max(files(folder), key=lambda p: (folder / p).stat().st_size)
    (folder / largest).write_bytes(b"")
    again = Checkpoints(epath.Path(folder), keep=2, say=said.append)
    assert restore(again)[2]["step"] == 2
    again.save(state(3), {"sum": jnp.float32(3)}, {"phase": "p"})
    again.wait()
    same(restore(again)[0], state(3))
