"""Sets that TFDS has prepared: read without TensorFlow and without the network, or refused in one line."""

import json
import socket
import sys

import numpy as np
import pytest

from kd_jax import InputError, data
from kd_jax.data import sources
from kd_jax.data.cifar import MEAN, STD
from kd_jax.train import run
from tests.conftest import tree
from tests.data import tiny_tfds as tiny

pytestmark = pytest.mark.usefixtures("tiny_resnet8", "shared_programs")


def refusal(name, root, **settings):
    with pytest.raises(InputError) as e:
        data.load(f"tfds:{name}", dir=str(root), **settings)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("shape", [(8, 8, 3), (5, 7, 1)])
def test_what_was_prepared_is_read(tmp_path, rng, shards, shape):
    folder, truth = tiny.write_tiny(tmp_path, rng, shape=shape, shards=shards)
    d = data.load("tfds:tiny", dir=str(tmp_path))
    order = [np.concatenate([np.arange(n)[i::shards] for i in range(shards)]) for n in (12, 6)]
    for part, (images, labels), index in zip((d.train, d.test), truth.values(), order, strict=True):
        np.testing.assert_array_equal(part.images, images[index])
        assert part.labels.tolist() == labels[index].tolist() and part.num_classes == 3
    assert (d.mean, d.std) == sources.statistics(truth["train"][0])
    assert d.augment == "crop_flip" and "tiny/1.0.0" in d.source and str(folder) in d.source
    assert "tensorflow" not in sys.modules


def test_identity(tmp_path, rng):
    """The same in another folder and where images stay in their files; another with other shards or sizes."""
    identities = []
    for i, changes in enumerate([{}, {}, {"shards": 3}, {"train": 13}]):
        tiny.write_tiny(tmp_path / str(i), rng, **changes)
        identities += [
            data.load("tfds:tiny", dir=str(tmp_path / str(i)), stream=stream).identity for stream in (False, True)
        ]
    assert all(identities[i] == identities[i + 1] for i in range(0, len(identities), 2))
    assert identities[0] == identities[2]
    assert len({each["digest"] for each in identities}) == 3 and len(identities[0]["classes"]) == 3


def test_validation_is_the_test_set_where_there_is_no_test(tmp_path, rng):
    _, truth = tiny.write_tiny(tmp_path, rng, tests="validation")
    np.testing.assert_array_equal(data.load("tfds:tiny", dir=str(tmp_path)).test.images, truth["validation"][0])
    folder, _ = tiny.write_tiny(tmp_path, rng, name="other", tests="unlabelled")
    assert f"{folder}: no split test or validation; it has train, unlabelled" == refusal("other", tmp_path)
    x = tiny.example(image=tiny.png(tiny.pictures(rng, 1)[0]), label=0)
    kinds = {"image": tiny.image_feature(8, 8, 3), "label": tiny.label_feature(1)}
    tiny.write(tmp_path, {"test": [x]}, kinds, name="late")
    assert "no split train; it has test" in refusal("late", tmp_path)


def test_versions_and_configs(tmp_path, rng):
    images = {v: tiny.write_tiny(tmp_path, rng, version=v)[1]["train"][0] for v in ("2.0.0", "10.0.0", "3.1.4")}
    for name, version in (("tiny", "10.0.0"), ("tiny/2.0.0", "2.0.0")):
        np.testing.assert_array_equal(data.load(f"tfds:{name}", dir=str(tmp_path)).train.images, images[version])
    one = tiny.write_tiny(tmp_path, rng, name="many", config="small")[1]["train"][0]
    for name in ("many/small", "many"):  # the only one needs no name
        np.testing.assert_array_equal(data.load(f"tfds:{name}", dir=str(tmp_path)).train.images, one)
    tiny.write_tiny(tmp_path, rng, name="many", config="big")
    assert "many has configs" in refusal("many", tmp_path) and "many/big, many/small" in refusal("many", tmp_path)
    np.testing.assert_array_equal(data.load("tfds:many/small", dir=str(tmp_path)).train.images, one)


def test_cifar_has_the_papers_statistics_and_characters_are_not_mirrored(tmp_path, rng):
    tiny.write_tiny(tmp_path, rng, name="cifar100")
    d = data.load("tfds:cifar100", dir=str(tmp_path))
    assert (d.mean, d.std) == (MEAN, STD)
    tiny.write_tiny(tmp_path, rng, name="mnist", shape=(8, 8, 1))
    assert data.load("tfds:mnist", dir=str(tmp_path)).augment == "crop"


def test_missing_sets_fail_at_once_with_the_command(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)  # no network
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # not even imported
    command = f"python launch/prepare_data.py --dataset=cifar100 --data_dir={tmp_path}"
    assert (
        refusal("cifar100", tmp_path) == f"data.name: no prepared TFDS set cifar100 in {tmp_path}; get it by: {command}"
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    assert str(tmp_path / "default") in refusal("cifar100", "")
    folder, _ = tiny.write_tiny(tmp_path, rng, form="tfrecord")
    command = command.replace("cifar100", "tiny")
    assert (
        refusal("tiny", tmp_path)
        == f"data.name: {folder} is tfrecord, accepted is array_record; convert it by: {command}"
    )
    for name in ("../tiny", "/tiny"):
        assert "no prepared TFDS set" in refusal(name, tmp_path / "tiny")


IMAGE, LABEL = tiny.image_feature(8, 8, 3), tiny.label_feature(3)
FEATURES = {
    "no label": (
        {"image": IMAGE, "coarse": LABEL},
        "no feature label: an array_record without labels; it has coarse, image",
    ),
    "no image": ({"picture": IMAGE, "label": LABEL}, "no feature image; it has label, picture"),
    "label is no class": (
        {"image": IMAGE, "label": tiny.tensor_feature()},
        "feature label is a Tensor of shape (); accepted: ClassLabel",
    ),
    "wrong rank": (
        {"image": tiny.tensor_feature(8, 8, dtype="uint8"), "label": LABEL},
        "feature image is a Tensor of shape (8, 8); accepted: Image of shape (H, W, C)",
    ),
    "not bytes": (
        {"image": tiny.image_feature(8, 8, 1, dtype="uint16"), "label": LABEL},
        "feature image is uint16; accepted: uint8",
    ),
}


@pytest.mark.parametrize("case", FEATURES)
def test_sets_of_another_kind_are_refused(tmp_path, rng, case):
    features, message = FEATURES[case]
    x = tiny.png(tiny.pictures(rng, 1)[0])
    record = tiny.example(**{name: x if "image" in str(kind) else 0 for name, kind in features.items()})
    folder = tiny.write(tmp_path, {"train": [record], "test": [record]}, features)
    assert refusal("tiny", tmp_path) == f"{folder}: {message}"


@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_out_of_range(tmp_path, rng, wrong):
    x = tiny.png(tiny.pictures(rng, 1)[0])
    splits = {"train": [tiny.example(image=x, label=0)], "test": [tiny.example(image=x, label=wrong)]}
    folder = tiny.write(tmp_path, splits, {"image": IMAGE, "label": LABEL})
    assert refusal("tiny", tmp_path) == f"{folder}: test: labels must be 0 to 2, got {wrong} to {wrong}"


def test_sizes_that_differ(tmp_path, rng):
    images = [rng.integers(0, 256, (h, 8, 3), np.uint8) for h in (8, 8, 12)]
    records = [tiny.example(image=tiny.png(x), label=0) for x in images]
    kinds = {"image": tiny.image_feature(-1, -1, 3), "label": LABEL}
    folder = tiny.write(tmp_path, {"train": records[:2], "test": records[2:]}, kinds)
    message = refusal("tiny", tmp_path)
    assert (
        message.startswith(f"{folder}: test[0]: 8 x 12 pixels, but {folder}: train[0] has 8 x 8")
        and "data.size" in message
    )
    d = data.load("tfds:tiny", dir=str(tmp_path), size=8)
    np.testing.assert_array_equal(d.test.images[0], images[2][2:10])  # the middle


def test_damaged_files(tmp_path, rng):
    folder, _ = tiny.write_tiny(tmp_path, rng, train=40)
    shard = folder / "tiny-train.array_record-00000-of-00001"
    whole = shard.read_bytes()
    for size in (0, 100, 65536, len(whole) - 1):  # 65536: a block of array_record
        shard.write_bytes(whole[:size])
        assert f"{folder}: train is truncated or damaged" in refusal("tiny", tmp_path)
    shard.unlink()
    assert refusal("tiny", tmp_path) == f"{shard}: missing, though {folder / 'dataset_info.json'} names it"
    shard.write_bytes(whole)
    (folder / "features.json").unlink()
    assert f"{folder}: TFDS cannot read its description" in refusal("tiny", tmp_path)
    for text in ("{", "[]", "{}"):
        (folder / "dataset_info.json").write_text(text)
        assert f"{folder / 'dataset_info.json'}: not a description of a TFDS set" in refusal("tiny", tmp_path)


def test_fewer_examples_than_described(tmp_path, rng):
    folder, _ = tiny.write_tiny(tmp_path, rng)
    written = folder / "dataset_info.json"
    info = json.loads(written.read_text())
    info["splits"][0]["shardLengths"] = ["13"]
    written.write_text(json.dumps(info))
    assert f"{folder}: train is truncated or damaged" in refusal("tiny", tmp_path)


def test_damaged_image(tmp_path, rng):
    x = tiny.png(tiny.pictures(rng, 1)[0])
    for name, raw, message in (("cut", x[:60], "a truncated or damaged image"), ("text", b"text", "not an image")):
        records = [tiny.example(image=raw, label=0)]
        whole = [tiny.example(image=x, label=0)]
        folder = tiny.write(
            tmp_path, {"train": whole + records, "test": whole}, {"image": IMAGE, "label": LABEL}, name=name
        )
        assert refusal(name, tmp_path).startswith(f"{folder}: train[1]: {message}")


def test_a_run(tmp_path, rng):
    tiny.write_tiny(tmp_path / "data", rng, train=20, classes=5)
    summary = run.run(tree(data__name="tfds:tiny", data__dir=str(tmp_path / "data")), str(tmp_path / "run"))
    assert [p["steps"] for p in summary["phases"].values()] == [2, 2]
