"""Images without labels: folders of any shape, and sets whose labels are left out."""

import numpy as np
import pytest

from kd_jax import InputError, data
from kd_jax.data import mixing
from kd_jax.data.streaming import Stream, TrainPlan
from tests.data.test_folder import fill, picture


def unlabelled(root, **settings):
    return data.load(f"folder:{root}", **{"labels": False, "classes": 7} | settings)


def refusal(root, **settings):
    with pytest.raises(InputError) as e:
        unlabelled(root, **settings)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_every_image_below_the_folder_counts(tmp_path, rng):
    fill(tmp_path, rng, {"a": 4, "b": 2, "b/deep": 5, "one": 1})
    for i in range(3):
        picture(rng).save(tmp_path / f"{i}.png")
    (tmp_path / ".hidden").write_text("no image")
    whole = unlabelled(tmp_path)
    assert (len(whole.train), len(whole.test)) == (11, 4)  # of every folder a fifth, of one image none
    assert whole.train.labels is None and whole.train.num_classes == whole.test.num_classes == 7
    assert whole.classes == () and whole.source == f"{tmp_path}, without labels"
    assert whole.identity["classes"] == [] and set(whole.train[0]) == {"image"}


def test_class_folders_give_the_same_images_in_the_same_order(tmp_path, rng):
    fill(tmp_path, rng, {"a": 5, "b": 9})
    with_labels, without = data.load(f"folder:{tmp_path}"), unlabelled(tmp_path)
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(with_labels, part).images, getattr(without, part).images)
    assert (without.mean, without.std) == (with_labels.mean, with_labels.std)
    assert without.identity["digest"] != with_labels.identity["digest"]


def test_train_beside_test(tmp_path, rng):
    fill(tmp_path, rng, {"train": 3, "train/more": 2, "val": 4})
    whole = unlabelled(tmp_path)
    assert (len(whole.train), len(whole.test)) == (5, 4)
    fill(tmp_path, rng, {"test/x/y": 1})
    assert len(unlabelled(tmp_path).test) == 1


def test_a_stream_has_the_same_images_and_no_labels(tmp_path, rng):
    fill(tmp_path, rng, {"a": 4, "deep/b": 6})
    whole, streamed = unlabelled(tmp_path), unlabelled(tmp_path, stream=True)
    assert streamed.train.labels is None and streamed.identity == whole.identity and len(streamed.train) == 8
    with Stream(streamed.train, TrainPlan(0, 8, 4)) as stream:
        batch = stream.at(1)
    assert batch.keys() == {"image", "index", "mask"}
    np.testing.assert_array_equal(batch["image"], whole.train.images[batch["index"]])


def test_what_is_refused(tmp_path, rng):
    fill(tmp_path, rng, {"a": 1})
    assert refusal(tmp_path).endswith(
        "1 images to train on and 0 for the test set; accepted: at least one of each, two in a folder that is not split"
    )
    assert "data.classes: 0, but folder:" in refusal(tmp_path, classes=0)
    assert "give folder:DIR with images below it" in refusal(tmp_path / "nowhere")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert "notes.txt" in refusal(tmp_path)
    fill(tmp_path / "flat", rng, {"train": 2, "test": 2})
    with pytest.raises(InputError, match="test/CLASS/.*png, or config.data.labels=False$"):
        data.load(f"folder:{tmp_path}/flat")


def test_labels_that_are_left_out():
    sizes = {"classes": 5, "size": 8, "channels": 3, "train": 40, "test": 12}
    with_labels = data.load("synthetic", synthetic=sizes)
    without = data.load("synthetic", synthetic=sizes, labels=False)
    np.testing.assert_array_equal(with_labels.train.images, without.train.images)
    assert without.train.labels is None and without.train.num_classes == 5
    assert data.load("synthetic", synthetic=sizes, labels=False, classes=9).test.num_classes == 9


def test_a_part_is_drawn_without_them():
    sizes = {"classes": 2, "size": 8, "channels": 1, "train": 40, "test": 2}
    part = data.load("synthetic", synthetic=sizes, labels=False, subset=0.25, seed=1)
    assert len(part.train) == 10 and part.source.startswith("10 of the 40 of ") and part.train.labels is None
    assert part.identity != data.load("synthetic", synthetic=sizes, labels=False, subset=10, seed=2).identity


def test_mixed_images_have_no_soft_labels(rng):
    import jax

    batch = {"image": rng.uniform(size=(4, 8, 8, 3)).astype(np.float32), "index": np.arange(4, dtype=np.int32)}
    how = {"num_classes": 5, "mixup": 1.0, "cutmix": 1.0, "probability": 1.0, "switch": 0.5}
    key, epoch = jax.random.key(0), np.int32(0)
    mixed = mixing.mixed(batch, key, epoch, **how)
    labelled = mixing.mixed(batch | {"label": np.arange(4, dtype=np.int32)}, key, epoch, **how)
    assert mixed.keys() == batch.keys() and (mixed["image"] != batch["image"]).any()
    np.testing.assert_array_equal(mixed["image"], labelled["image"])
