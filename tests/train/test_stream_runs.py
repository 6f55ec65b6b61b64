"""Runs whose examples stream: those of a run that has them in memory, bit for bit, and ImageNet's way of reading."""

import json
import multiprocessing
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError, config, data
from kd_jax.data.augment import root_key
from kd_jax.data.resident import Split
from kd_jax.data.streaming import Stream
from kd_jax.data.unloaded import Records
from kd_jax.distributed.mesh import Layout
from kd_jax.train import batches, run
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.dry_run import dry_run
from kd_jax.train.evaluate import evaluate, saved
from tests.conftest import shrunk, tree
from tests.data import tiny_tfds as tiny
from tests.data.test_streaming import KINDS, photographs
from tests.distributed.test_processes import RECIPE, end, far, start, together
from tests.train.resuming import last_state, rows, stopping

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

LONG = {"teacher__steps": 4, "student__steps": 7, "checkpoint__every": 3, "log__every": 2, "seed": 5}


def trained(home, **changes):
    config_tree = json.loads(json.dumps(tree(**LONG, **changes)))
    return run.run(config_tree, str(home))


def assert_same_run(one, two, phases=("teacher", "student")):
    assert rows(one) == rows(two) and rows(one)
    for name in phases:
        a, b = last_state(one, name), last_state(two, name)
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}")


def readers():
    return [child for child in multiprocessing.active_children() if "grain" in child.name]


@pytest.fixture(scope="module")
def pngs(tmp_path_factory):
    """A folder of 60 images in five classes."""
    root, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    for i in range(60):
        path = root / f"class{i % 5}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The data_dir of a set of 40 + 13 JPEGs of several sizes."""
    root = tmp_path_factory.mktemp("photos")
    encoded = photographs(53)
    examples = [tiny.example(image=x, label=i % 5) for i, x in enumerate(encoded)]
    tiny.write(root, {"train": examples[:40], "test": examples[40:]}, KINDS)
    return {"data__name": "tfds:tiny", "data__dir": str(root)}


def test_a_folder_that_streams_trains_as_one_in_memory(pngs, tmp_path, capsys):
    changes = {"data__name": f"folder:{pngs}", "data__subset": 41.0, "phases": ("teacher",)}
    trained(tmp_path / "here", **changes)
    assert "streamed" not in capsys.readouterr().out
    trained(tmp_path / "there", **changes, data__stream=True, data__workers=1)
    assert "test images of (8, 8, 3), streamed by 1 worker; devices: 1" in capsys.readouterr().out
    assert_same_run(tmp_path / "here", tmp_path / "there", phases=("teacher",))
    assert not readers()
    measured = [evaluate(str(tmp_path / name)) for name in ("here", "there")]
    assert measured[0] == measured[1] and measured[0]["top1"] == rows(tmp_path / "here")[-1]["top1"]
    # the two are one run: a finished one is not begun again
    before = (tmp_path / "there" / "summary.json").stat().st_mtime_ns
    trained(tmp_path / "there", **changes)
    assert (tmp_path / "there" / "summary.json").stat().st_mtime_ns == before


@pytest.mark.full  # test_batches_stay_as_they_were_when_readers_move_on compares their batches
@pytest.mark.parametrize("what", ["strong", "held_out"])
def test_strong_views_and_held_out_examples_stream_too(tmp_path, what):
    if what == "strong":
        from configs import mlld as made_by

        changes = {"phases": ("teacher", "student")}
    else:
        from configs import sokd_fitnet as made_by

        changes = {"student__refine__dafa__holdout": 0.25, "student__refine__dafa__estimator": "relaxed"}
    for name, stream in (("here", False), ("there", True)):
        config_tree = shrunk(
            made_by.get_config("resnet8,resnet8,smoke"), **changes, data__stream=stream, student__steps=5
        )
        run.run(json.loads(json.dumps(config_tree)), str(tmp_path / name))
    assert_same_run(tmp_path / "here", tmp_path / "there")


@pytest.mark.full
def test_imagenets_way_from_files_to_a_resumed_run(photos, tmp_path, capsys):
    changes = {**photos, "data__stream": True, "data__crop": 32}
    summary = trained(tmp_path / "whole", **changes, data__workers=0)
    assert "40 training and 13 test images of (32, 32, 3), streamed by a thread" in capsys.readouterr().out
    network = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert network["data"]["crop"] == 32
    tests = [row for row in rows(tmp_path / "whole") if row["split"] == "test"]
    assert len(tests) == 3  # of one epoch, and of both last steps
    assert all(row["top1"] * 13 == pytest.approx(round(row["top1"] * 13), abs=1e-4) for row in tests)
    assert evaluate(str(tmp_path / "whole"))["top1"] == summary["phases"]["student"]["top1_last"]
    home = tmp_path / "broken"
    with stopping(9):  # five in the student's phase
        trained(home, **changes, data__workers=1)
    assert not readers()
    trained(home, **changes, data__workers=0)
    assert "student: resumed at step 5 of 7" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", home)


def test_an_error_ends_the_readers(photos, tmp_path, host_patch):
    def failing(self, *args):
        if readers():
            raise KeyError("of the run")
        return train(self, *args)

    train = Streamed.train
    host_patch.setattr(Streamed, "train", failing)
    with pytest.raises(KeyError):
        trained(tmp_path, **photos, data__stream=True, data__crop=32, data__workers=1)
    assert not readers()


def test_a_dry_run_streams(photos, tmp_path, capsys):
    dry_run(tree(**photos, data__stream=True, data__crop=32, data__workers=0, phases=("teacher",)), str(tmp_path / "x"))
    said = capsys.readouterr().out
    assert "streamed by a thread" in said and "2 steps taken: loss" in said and not (tmp_path / "x").exists()


def streamed(source="synthetic", layout=None, **settings):
    how = {"augment": "auto", "strong": config.records.Strong(1, 5.0)}
    dataset = data.load(source, synthetic={"classes": 3, "size": 64, "channels": 3, "train": 40, "test": 11})
    kind = settings.pop("kind", Streamed)
    return kind(layout or Layout((1,)), dataset, seed=3, **how, **settings)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_batches_stay_as_they_were_when_readers_move_on():
    """Images large enough for shared memory, looked at only when their stream is closed."""
    resident, split = streamed(kind=Resident), Split(6, 10, 2)
    with streamed(workers=1) as source:
        assert source.key == resident.key == root_key(3)
        trained_on = [source.train(step, 8, split, False, ("strong",)) for step in range(7)]
        held_out = [source.train(step, 8, split, True) for step in (0, 2, 4)]
        tested = [[next(source.test(4))], [*source.test(4)]]
        assert readers()
    assert not readers()
    same(trained_on, [resident.train(step, 8, split, False, ("strong",)) for step in range(7)])
    same(held_out, [resident.train(step, 8, split, True) for step in (0, 2, 4)])
    expected = [*resident.test(4)]
    same(tested, [expected[:1], expected])


def test_nothing_is_read_twice_or_from_the_start_again(monkeypatch):
    asked, begun = [], []
    at, pipeline = Stream.at, Stream._pipeline
    monkeypatch.setattr(Stream, "at", lambda self, step: (asked.append(step), at(self, step))[1])
    monkeypatch.setattr(
        Stream, "_pipeline", lambda self, position: (begun.append(position), pipeline(self, position))[1]
    )
    split, expected = Split(6, 10, 2), streamed(kind=Resident)
    with streamed() as source:
        for step in range(4):
            same(source.train(step, 8, split), expected.train(step, 8, split))
            if step % 2 == 0:
                source.train(step, 8, split, True)
            source.ahead(step + 1, 8, split)
        for _ in range(2):
            assert len([*source.test(4)]) == 3
    assert asked == [0, 0, 1, 2, 2, 3, 4, 0, 1, 2, 3, 4, 5]
    assert begun == [0, 0, 0]  # training, outer batches, tests


def test_one_process_holds_every_row():
    layout = Layout((1,))
    assert layout.rows(8) == set(range(8)) and batches.share_of(layout) == (0, 1)
    assembled = layout.assemble({"x": np.arange(6)})
    np.testing.assert_array_equal(assembled["x"], np.arange(6))


def test_a_mesh_that_cannot_be_shared_out(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="config.parallel.mesh: 1 devices, of which process 0 of 2 has 1; accepted"):
        batches.share_of(Layout((1,)))
    mesh = SimpleNamespace(count=4, rows=lambda count: {0, 1})
    assert batches.share_of(mesh) == (0, 2)
    mesh.rows = lambda count: {0, 2}  # its devices stand between those of the other
    with pytest.raises(InputError, match="config.parallel.mesh: 4 devices, of which process 0 of 2 has 2; accepted"):
        batches.share_of(mesh)


def test_workers_are_as_many_as_cores():
    dataset, arrays = data.load("digits"), batches.workers_of
    assert arrays(dataset, None) == 0 and arrays(dataset, 3) == 3
    assert arrays(dataset._replace(train=None), None) == len(os.sched_getaffinity(0))


def test_labels_are_read_where_something_needs_them(photos, tmp_path, host_patch):
    from configs import crd

    read = []
    labels = Records.labels.func
    counted = property(lambda self: (read.append(len(self)), labels(self))[1])
    host_patch.setattr(Records, "labels", counted)
    changes = {**photos, "data__stream": True, "data__crop": 32, "data__workers": 0}
    run.prepare(tree(**changes), str(tmp_path))
    assert read == []
    prepared = run.prepare(shrunk(crd.get_config("resnet8,resnet8,smoke"), **changes), str(tmp_path))
    assert read and set(read) == {40} and prepared.plans[-1].context.labels.tolist() == [i % 5 for i in range(40)]
    prepared = run.prepare(tree(**changes, data__subset=0.5), str(tmp_path))
    assert len(prepared.dataset.train) == 20 and sorted(prepared.dataset.train.labels) == sorted([*range(5)] * 4)
    assert "20 of the 40 of TFDS's tiny" in prepared.heading


REFUSED = {
    "config.data.crop: must be 0 unless data.stream is True, got 32": {"data__crop": 32},
    "config.data.crop: must be pixels a side": {"data__crop": -1, "data__stream": True},
    "config.data.decoder: must be pillow where data.crop is 0, got 'fast'": {"data__decoder": "fast"},
    "config.data.decoder: must be pillow or fast where data.crop is 32, got 'fest'": {
        "data__crop": 32, "data__stream": True, "data__decoder": "fest",
    },
    "config.data.augment: must be auto where data.crop=32 augments, got 'none'": {
        "data__crop": 32, "data__stream": True, "data__augment": "none",
    },
    "config.data.workers: must be at least 0, or None, got -1": {"data__workers": -1},
    "data.crop: 32, but synthetic is not cropped; only streamed folder:DIR and tfds:NAME are": {
        "data__crop": 32, "data__stream": True,
    },
    "data.size: 8, but synthetic is not resized": {"data__stream": True, "data__size": 8},
    "data.size: 8, but data.crop=32 resizes the images already": {
        "data__name": "folder:x", "data__crop": 32, "data__stream": True, "data__size": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_refused(said, tmp_path):
    with pytest.raises(InputError) as e:
        run.prepare(tree(**REFUSED[said]), str(tmp_path))
    assert str(e.value).startswith(said) and "\n" not in str(e.value)


@pytest.mark.full  # with what tests/distributed/test_processes.py trains, this takes a minute
def test_two_processes_read_what_one_reads(tmp_path):
    flags = ["--config.data.stream=true", "--config.data.workers=1"]
    recipe = ["--config=configs/kd.py:resnet8,resnet8,smoke", *RECIPE[1:9], *flags]
    codes, said = end(start(tmp_path / "one", devices=4, recipe=recipe))
    assert codes == [0], said[0][-3000:]
    codes, said = end(*together(tmp_path / "two", recipe=recipe))
    assert codes == [0, 0], said[0][-3000:] + said[1][-3000:]
    assert "streamed by 1 worker; devices: 4" in said[0]
    for phase in ("teacher", "student"):
        (_, ours, a), (_, theirs, b) = (saved(str(tmp_path / name), phase=phase) for name in ("one", "two"))
        assert a == b == 10 and far(ours, theirs) < 1e-4
    tests = [[r["top1"] for r in rows(tmp_path / n) if r["split"] == "test"] for n in ("one", "two")]
    assert tests[0] == tests[1]
