"""Runs of a few steps: folders that fail, losses that are not finite, the data's seed, programs compiled once."""

import shutil

import numpy as np
import pytest
from etils import epath

from kd_jax import InputError, losses
from kd_jax.engine.metrics import NonFiniteError
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.train import phase, run
from tests.conftest import tree
from tests.train.resuming import last_state, rows

pytestmark = pytest.mark.usefixtures("tiny_resnet8")


def test_a_folder_that_vanishes(tmp_path, host_patch):
    train = phase.Resident.train
    host_patch.setattr(phase.Resident, "train", lambda *a: (shutil.rmtree(tmp_path / "run", True), train(*a))[1])
    with pytest.raises(OSError, match="metrics.jsonl|cannot save a checkpoint"):
        run.run(tree(phases=("teacher",)), str(tmp_path / "run"))


def test_a_folder_that_cannot_be_made():
    with pytest.raises(InputError, match="--workdir=/proc/none/run: cannot be written"):
        run.run(tree(), "/proc/none/run")


def test_a_loss_that_is_not_finite(tmp_path):
    """Names phase, step and term; the last good checkpoint stays and is the one resumed from."""
    config_tree = tree(teacher__steps=9, checkpoint__every=1, log__every=3, teacher__optim__lr=1e18)
    with pytest.raises(NonFiniteError, match=r"phase teacher, step \d: .*") as e:
        run.run(config_tree, str(tmp_path))
    steps = Checkpoints(epath.Path(tmp_path / "teacher"), read_only=True).steps()
    assert ("no checkpoint was saved yet" in str(e.value)) == (not steps)
    assert not (tmp_path / "teacher" / "DONE").exists() and not (tmp_path / "summary.json").exists()
    assert all(np.isfinite(r["loss"]) for r in rows(tmp_path))


def test_a_term_that_is_not_finite_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "kd", lambda **kw: kw["student"].sum(-1) * np.nan)
    with pytest.raises(NonFiniteError, match=r"phase student, step 1: the loss is not finite \(term: kd\)"):
        run.run(tree(), str(tmp_path))


def test_the_watched_log_warns_once(tmp_path, capsys):
    run.run(
        tree(student__steps=8, student__refine__skd__bound=None, student__refine__skd__normalize=False,
             student__refine__skd__rate=20.0), str(tmp_path),
    )  # fmt: skip
    said = capsys.readouterr().out
    assert said.count("warning: student, step") >= 1
    for name in ("skd/kept", "skd/ratio", "skd/entropy_ratio"):
        assert said.count(f": {name} = ") <= 1


def test_nothing_is_compiled_twice(tmp_path, monkeypatch):
    """Every program of a run is compiled once, on its first use."""
    from kd_jax.distributed import mesh

    programs = []  # with what each had compiled before: those of one function share a cache, also of other tests' runs
    original = mesh.Layout.jit

    def remember(self, *args, **kwargs):
        program = original(self, *args, **kwargs)
        programs.append((program, program._cache_size()))
        return program

    monkeypatch.setattr(mesh.Layout, "jit", remember)
    run.run(tree(teacher__steps=11, student__steps=11), str(tmp_path))
    sizes = [program._cache_size() - before for program, before in programs]
    assert max(sizes) == 1 and sum(sizes) > 10


def test_the_data_seed_alone_orders_and_augments(tmp_path, host_patch):
    """With data.seed fixed, another seed sees the same images in the same order, from other initial weights."""
    train, batches = phase.Resident.train, []

    def watch(self, step, *args):
        batch = train(self, step, *args)
        batches[-1].append((np.asarray(batch["index"]), np.asarray(batch["image"])))
        return batch

    host_patch.setattr(phase.Resident, "train", watch)
    weights = []
    for i, (seed, data_seed) in enumerate([(1, 9), (2, 9), (2, None)]):
        batches.append([])
        run.run(tree(phases=("teacher",), seed=seed, data__seed=data_seed), str(tmp_path / str(i)))
        weights.append(last_state(tmp_path / str(i), "teacher"))
    same = [all(map(np.array_equal, a, b)) for a, b in zip(batches[0], batches[1], strict=True)]
    other = [np.array_equal(a[0], b[0]) for a, b in zip(batches[0], batches[2], strict=True)]
    assert all(same) and not any(other)
    assert any(not np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])
