"""Streamed batches: the order and examples of the resident path, whatever the processes, workers and starting step."""

import io
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError, data
from kd_jax.data import crops, resident, streaming
from kd_jax.data.images import Encoded
from kd_jax.data.resident import Split
from kd_jax.data.sources import Arrays
from kd_jax.data.streaming import EvalPlan, InMemory, Share, Stream, TrainPlan
from kd_jax.data.unloaded import unloaded
from tests.data import tiny_tfds as tiny

TRAIN, TEST, SIZES = 23, 10, [(60, 80), (75, 50), (64, 64)]
KINDS = {"image": tiny.image_feature(-1, -1, 3), "label": tiny.label_feature(5)}


def jpeg(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def photographs(n):
    rng = np.random.default_rng(n)
    small = [rng.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(n)]
    return [jpeg(np.asarray(Image.fromarray(x).resize(SIZES[i % 3]))) for i, x in enumerate(small)]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """A set of JPEGs of several sizes: {split: (encoded, labels)}, and its data_dir."""
    root = tmp_path_factory.mktemp("jpegs")
    truth = {s: (photographs(n), [i % 5 for i in range(n)]) for s, n in (("train", TRAIN), ("test", TEST))}
    splits = {s: [tiny.example(image=x, label=y) for x, y in zip(*pair, strict=True)] for s, pair in truth.items()}
    tiny.write(root, splits, KINDS)
    return truth, root


@pytest.fixture(scope="module")
def photos(jpegs):
    return unloaded("tfds:tiny", dir=str(jpegs[1]), crop=32)


def plan(**changed):
    return TrainPlan(**{"seed": 7, "n": TRAIN, "batch_size": 6, **changed})


def train(d, steps, **settings):
    with Stream(d.train, plan(), steps=steps, seed=7, **settings) as stream:
        return list(stream)


def same(here, there):
    assert len(here) == len(there) > 0
    for a, b in zip(here, there, strict=True):
        assert a.keys() == b.keys() == {"image", "label", "index", "mask"}
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_are_the_crops_of_the_examples_that_training_reads(jpegs, photos):
    encoded, labels = jpegs[0]["train"]
    batches = train(photos, range(5))  # 23 // 6 = 3 steps an epoch
    for step, batch in enumerate(batches):
        epoch, index = resident.train_index(7, step, n=TRAIN, batch_size=6)
        assert batch["index"].tolist() == index.tolist() and batch["label"].tolist() == [labels[i] for i in index]
        assert batch["image"].dtype == np.uint8 and batch["mask"].tolist() == [1] * 6
        for pixels, i in zip(batch["image"], index, strict=True):
            it = Encoded("it", lambda i=i: io.BytesIO(encoded[i]))
            np.testing.assert_array_equal(pixels, crops.RandomCrop(32)(it, 7, epoch, int(i)))
    assert (photos.mean, photos.std, photos.augment) == (crops.MEAN, crops.STD, "none")
    assert (photos.train.num_classes, photos.train.shape) == (5, (32, 32, 3))


def test_workers_change_nothing_and_end_at_once(photos):
    expected = train(photos, range(7))
    for workers in (1, 2):
        with Stream(photos.train, plan(), seed=7, workers=workers) as stream:  # without end
            same([stream.at(step) for step in range(7)], expected)
            start = time.monotonic()
        assert time.monotonic() - start < 10
    import multiprocessing

    assert not [child for child in multiprocessing.active_children() if "grain" in child.name]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_read_the_rows_of_one(photos, processes):
    parts = [train(photos, range(4), share=Share(p, processes)) for p in range(processes)]
    joined = [{name: np.concatenate([b[name] for b in row]) for name in row[0]} for row in zip(*parts, strict=True)]
    same(joined, train(photos, range(4)))


def test_batches_that_cannot_be_shared_out(photos):
    with pytest.raises(InputError, match="batch_size: 6 rows for 4 processes; accepted: a multiple"):
        Stream(photos.train, plan(), share=Share(0, 4))


def test_a_stream_starts_at_any_step_and_goes_back(photos):
    expected = train(photos, range(9))
    for start in (1, 3, 8):
        same(train(photos, range(start, 9)), expected[start:])
    with Stream(photos.train, plan(), seed=7) as stream:
        order = [4, 5, 5, 4, 2, 3, 8]  # repeated, back, forth
        same([stream.at(step) for step in order], [expected[step] for step in order])
    same(train(photos, range(0, 9, 4)), expected[::4])


def test_a_stream_may_be_closed_unread_or_twice_and_opens_again(photos):
    stream = Stream(photos.train, plan(), seed=7)
    stream.close()
    first = stream.at(0)
    stream.close()
    stream.close()
    same([stream.at(0), stream.at(1)], train(photos, range(2)))
    assert stream.at(1) is stream.at(1)
    np.testing.assert_array_equal(stream.at(0)["image"], first["image"])
    stream.close()


def test_the_next_epoch_is_cropped_anew(photos):
    crops_of = {}
    for step, batch in enumerate(train(photos, range(6))):
        for i, pixels in zip(batch["index"].tolist(), batch["image"], strict=True):
            crops_of.setdefault(i, []).append((step // 3, pixels.tobytes()))
    twice = [views for views in crops_of.values() if len(views) == 2]
    assert len(twice) > 10 and all(a[0] != b[0] and a[1] != b[1] for a, b in twice)


def test_split_and_held_out_batches_follow_the_resident_order(photos):
    split = Split(steps=4, held_out=8)
    for held_out in (False, True):
        settings = {"n": TRAIN, "batch_size": 3, "split": split, "held_out": held_out}
        with Stream(photos.train, TrainPlan(7, **settings), steps=range(6), seed=7) as stream:
            for step, batch in enumerate(stream):
                assert batch["index"].tolist() == resident.train_index(7, step, **settings)[1].tolist()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_test_set_counts_every_example_once(jpegs, photos, processes):
    encoded, labels = jpegs[0]["test"]
    plan = EvalPlan(TEST, 4)
    assert plan.steps == 3
    for p in range(processes):
        with Stream(photos.test, plan, share=Share(p, processes)) as stream:
            for step in range(5):  # a second round
                batch, rows = stream.at(step), Share(p, processes).rows(4)
                index, mask = (a[rows] for a in resident.test_index(step % 3, n=TEST, batch_size=4))
                assert batch["index"].tolist() == index.tolist() and batch["mask"].tolist() == mask.tolist()
                for pixels, label, i in zip(batch["image"], batch["label"], index, strict=True):
                    it = Encoded("it", lambda i=i: io.BytesIO(encoded[i]))
                    np.testing.assert_array_equal(pixels, crops.CentreCrop(32)(it, 0, 0, 0))
                    assert label == labels[i]


@pytest.mark.parametrize("augment", ["crop_flip", "crop", "none"])
def test_whole_images_are_those_of_the_resident_path_bit_by_bit(tmp_path, rng, augment):
    tiny.write_tiny(tmp_path, rng, shards=2)
    here, there = unloaded("tfds:tiny", dir=str(tmp_path)), data.load("tfds:tiny", dir=str(tmp_path))
    assert (here.mean, here.std, here.augment) == (there.mean, there.std, there.augment)
    assert (here.train.shape, here.train.num_classes) == (there.train.shape, there.train.num_classes)
    key, arguments = jax.random.key(3), {"n": 12, "batch_size": 5}
    resident_step = jax.jit(resident.train_batch, static_argnames="augment")
    streamed_step = jax.jit(streaming.train_batch, static_argnames="augment")
    for source in (here.train, InMemory(there.train)):
        with Stream(source, TrainPlan(3, **arguments), steps=range(4), seed=3) as stream:
            for step, batch in enumerate(stream):
                epoch, index = resident.train_index(3, step, **arguments)
                expected = resident_step(there.train.images, there.train.labels, index, epoch, key, augment=augment)
                streamed = streamed_step(batch, jnp.int32(epoch), key, augment=augment)
                assert streamed.keys() == expected.keys()
                jax.tree.map(np.testing.assert_array_equal, streamed, expected)
    with Stream(here.test, EvalPlan(6, 4), steps=range(2)) as stream:
        for step, batch in enumerate(stream):
            index, mask = resident.test_index(step, n=6, batch_size=4)
            expected = jax.jit(resident.test_batch)(there.test.images, there.test.labels, index, mask)
            jax.tree.map(np.testing.assert_array_equal, jax.jit(streaming.test_batch)(batch), expected)


def folder_of(root, sizes, mode="RGB"):
    rng = np.random.default_rng(0)
    for k, size in enumerate(sizes):
        path = root / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).convert(mode).save(path)


@pytest.mark.parametrize("mode,size", [("RGB", 0), ("L", 0), ("RGB", 6)])
def test_folders_are_read_as_in_memory(tmp_path, mode, size):
    folder_of(tmp_path / "set", [(8, 12)] * 9, mode)
    name = f"folder:{tmp_path / 'set'}"
    here, there = unloaded(name, size=size), data.load(name, size=size)
    assert (here.mean, here.std, here.train.shape) == (there.mean, there.std, there.train.shape)
    for streamed, whole in ((here.train, there.train), (here.test, there.test)):
        views = [streamed.view(i, 0, 0) for i in range(len(streamed))]
        np.testing.assert_array_equal([pixels for pixels, _ in views], whole.images)
        assert [label for _, label in views] == whole.labels.tolist()
    big = unloaded(name, crop=16)
    with Stream(big.train, TrainPlan(0, len(big.train), 4), steps=range(1)) as stream:
        assert next(iter(stream))["image"].shape == (4, 16, 16, 3)


def refusal(read):
    with pytest.raises(InputError) as e:
        read()
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_ends_the_stream_with_its_name(tmp_path, workers):
    whole = photographs(4)
    records = [tiny.example(image=x, label=0) for x in [*whole[:2], whole[2][:300], whole[3]]]
    folder = tiny.write(tmp_path, {"train": records, "test": records[:2]}, KINDS)
    d = unloaded("tfds:tiny", dir=str(tmp_path), crop=16)
    stream = Stream(d.train, TrainPlan(0, 4, 4), workers=workers)
    assert refusal(lambda: stream.at(0)).startswith(f"{folder}: train[2]: a truncated or damaged image")
    assert stream._iterator is None  # closed


def test_damaged_records_and_labels(tmp_path):
    records = [tiny.example(image=x, label=i) for i, x in enumerate(photographs(60))]
    folder = tiny.write(tmp_path, {"train": records, "test": records[:2]}, KINDS)
    d = unloaded("tfds:tiny", dir=str(tmp_path), crop=16)
    assert refusal(lambda: d.train.view(5, 0, 0)) == f"{folder}: train[5]: labels must be 0 to 4, got 5"
    shard = folder / "tiny-train.array_record-00000-of-00001"
    good = shard.read_bytes()
    at = len(good) // 2
    shard.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
    fresh, said = unloaded("tfds:tiny", dir=str(tmp_path), crop=16).train, []
    for i in range(60):
        try:
            fresh.files[i]
        except InputError as e:
            said.append((i, str(e)))
    assert len(said) == 1 and said[0][1].startswith(f"{folder}: train[{said[0][0]}]: a damaged record (")
    shard.write_bytes(good[: len(good) // 2])
    cut = unloaded("tfds:tiny", dir=str(tmp_path), crop=16)
    assert refusal(lambda: cut.train.view(0, 0, 0)).startswith(f"{folder}: train: truncated or damaged (")
    tiny.write_records(shard, records[:50], "array_record")
    fewer = unloaded("tfds:tiny", dir=str(tmp_path), crop=16)
    said = f"{folder}: train: 50 records, but the set's description says 60"
    assert refusal(lambda: fewer.train.view(0, 0, 0)) == said
    tiny.write_records(shard, [b"no example"] * 60, "array_record")
    other = unloaded("tfds:tiny", dir=str(tmp_path), crop=16)
    assert refusal(lambda: other.train.view(0, 0, 0)).startswith(f"{folder}: train[0]: a damaged record (")


def test_sets_that_are_refused(tmp_path, jpegs):
    said = refusal(lambda: unloaded("synthetic"))
    assert said == "data.name: synthetic lives in memory and is not streamed; accepted: tfds:NAME, folder:DIR"
    assert "no prepared TFDS set nowhere" in refusal(lambda: unloaded("tfds:nowhere", dir=str(tmp_path)))
    assert "no folder" in refusal(lambda: unloaded("folder:nowhere", dir=str(tmp_path)))
    assert "give one of them" in refusal(lambda: unloaded("tfds:tiny", dir=str(jpegs[1]), size=8, crop=8))
    mixed = refusal(lambda: unloaded("tfds:tiny", dir=str(jpegs[1])))
    assert "train[1]: 75 x 50 pixels, but" in mixed and "data.size=N" in mixed
    folder_of(tmp_path / "set", [(8, 8)] * 300, "L")
    path = sorted((tmp_path / "set" / "class0").iterdir())[1]
    Image.new("RGB", (8, 8)).save(path)
    assert refusal(lambda: unloaded(f"folder:{tmp_path / 'set'}")).startswith(f"{path}: in colour, but")


def test_sources_travel_to_other_processes_without_what_they_opened(photos):
    photos.train.view(0, 0, 0)
    assert len(pickle.dumps(photos.train)) < 2000
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(photos.train)).view(1, 2, 3)[0], photos.train.view(1, 2, 3)[0]
    )


def test_reading_starts_no_backend_of_jax():
    """A worker that took the accelerator would take it from the run."""
    import subprocess
    import sys

    code = (
        "import kd_jax.data.unloaded, kd_jax.data.streaming; from jax._src import xla_bridge as x; "
        "assert not x.backends_are_initialized()"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_are_checked(rng):
    source = InMemory(Arrays(tiny.pictures(rng, 4), np.zeros(4, np.int32), 1))
    for settings in ({"workers": -1}, {"ahead": 0}):
        with pytest.raises(InputError, match="accepted: at least 0 and at least 1"):
            Stream(source, TrainPlan(0, 4, 2), **settings)
