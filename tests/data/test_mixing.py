"""Mixup and CutMix: timm's boxes and targets, what a draw depends on, and a mixed run that resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, config, recipes
from kd_jax.data.augment import root_key
from kd_jax.data.mixing import box, mixed
from kd_jax.train import run
from tests.conftest import tree
from tests.train.resuming import assert_resumes, plain

KEY = root_key(0)
OFF = vars(config.Mix())


@pytest.mark.parametrize(("share", "centre", "rows", "columns", "left"), [
    (0.75, (4, 4), (2, 6), (2, 6), 0.75),
    (0.75, (0, 7), (0, 2), (5, 8), 0.90625),
    (0.5, (3, 5), (1, 5), (3, 7), 0.75),
    (0.9, (1, 1), (0, 2), (0, 2), 0.9375),
])  # fmt: skip
def test_boxes_are_timms(share, centre, rows, columns, left):
    inside, remains = box(jnp.float32(share), [jnp.int32(x) for x in centre], (8, 8))
    wanted = np.zeros((8, 8), bool)
    wanted[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(inside, wanted)
    assert float(remains) == left


def batch_of(rng, size=6, classes=4):
    return {
        "image": jnp.float32(rng.uniform(size=(size, 8, 8, 3))),
        "label": jnp.int32(rng.integers(0, classes, size)),
        "index": jnp.int32(rng.permutation(size)),
    }


def mix(batch, epoch=0, **how):
    return jax.jit(lambda b, e: mixed(b, KEY, e, num_classes=4, **OFF | how))(batch, epoch)


def test_mixup(rng):
    """Images and labels have the same share of the batch in reverse; the label is the larger one's."""
    batch = batch_of(rng)
    after = mix(batch, mixup=1.0)
    hot = np.eye(4)[batch["label"]]
    share = float(np.linalg.lstsq((hot - hot[::-1]).reshape(-1, 1), (after["soft_label"] - hot[::-1]).ravel())[0][0])
    assert 0.01 < share < 0.99
    image = np.asarray(batch["image"])
    np.testing.assert_allclose(after["image"], share * image + (1 - share) * image[::-1], atol=1e-5)
    np.testing.assert_allclose(after["soft_label"].sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(after["label"], np.argmax(after["soft_label"], -1))


def test_cutmix(rng):
    """Every pixel is of one of the two; the label's share is that of the pixels."""
    batch = batch_of(rng)
    for epoch in range(5):
        after = mix(batch, epoch, cutmix=1.0)
        image, ours = np.asarray(batch["image"]), np.asarray(after["image"])
        cut = (ours == image[::-1]).all(-1)
        assert (cut | (ours == image).all(-1)).all() and (cut == cut[0]).all()
        share = 1 - cut[0].mean()
        hot = np.eye(4)[batch["label"]]
        np.testing.assert_allclose(after["soft_label"], share * hot + (1 - share) * hot[::-1], atol=1e-6)


def test_draws(rng):
    """A function of epoch and first index; not mixed as often as asked for; cut as often as asked for."""
    batch = batch_of(rng)
    same = [mix(batch, 3, mixup=0.8, cutmix=1.0)["image"] for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert not np.array_equal(same[0], mix(batch, 4, mixup=0.8, cutmix=1.0)["image"])
    other = {**batch, "index": (batch["index"] + 1) % 6}
    assert not np.array_equal(same[0], mix(other, 3, mixup=0.8, cutmix=1.0)["image"])
    np.testing.assert_array_equal(mix(batch, mixup=1.0, probability=0.0)["image"], batch["image"])

    @jax.jit
    def draws(epochs, batch):
        how = {"mixup": 0.8, "cutmix": 1.0, "probability": 0.5, "switch": 0.25}
        return jax.vmap(lambda e: mixed(batch, KEY, e, num_classes=4, **how)["image"])(epochs)

    images = np.asarray(draws(jnp.arange(400), batch))
    plain = (images == np.asarray(batch["image"])).all((1, 2, 3, 4))
    blended = ~plain & ~((images == np.asarray(batch["image"])) | (images == np.asarray(batch["image"])[::-1])).all(
        (1, 2, 3, 4)
    )
    assert 0.4 < plain.mean() < 0.65 and 0.3 < blended.mean() < 0.45  # a box may be empty


ON = {"data__mix__mixup": 0.8, "data__mix__cutmix": 1.0}


@pytest.mark.full
@pytest.mark.usefixtures("tiny_resnet8", "shared_programs")
@pytest.mark.parametrize("stream", [False, True])
def test_a_mixed_run_resumes_bit_for_bit(tmp_path, stream):
    config_tree = plain(tree(**ON, student__steps=4, checkpoint__every=2, data__stream=stream))
    config_tree["student"]["terms"]["ce"]["smoothing"] = 0.1
    run.run(config_tree, str(tmp_path / "whole"))
    assert_resumes(config_tree, tmp_path / "whole", tmp_path / "cut", [(4, True)], ["student"])
    prepared = run.prepare(config_tree, str(tmp_path / "cut"))
    with run.batches_of(prepared.recipe, prepared.layout, prepared.dataset) as source:
        shares = np.asarray(source.train(0, 8)["soft_label"])
        assert np.any((shares > 0) & (shares < 1))  # mixed it is


@pytest.mark.usefixtures("tiny_resnet8", "shared_programs")
def test_a_stream_mixes_as_a_set_in_memory_does():
    batches = []
    for stream in (False, True):
        prepared = run.prepare(plain(tree(**ON, data__stream=stream)), "/nowhere")
        with run.batches_of(prepared.recipe, prepared.layout, prepared.dataset) as source:
            batches.append([source.train(step, 8) for step in range(3)])
    for one, two in zip(*batches, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


@pytest.mark.parametrize(("changes", "message"), [
    ({"data__mix__mixup": -1.0}, "config.data.mix.mixup: must be 0 for none, or a finite number above, got -1"),
    ({"data__mix__switch": 2.0}, "config.data.mix.switch: must be 0 to 1, got 2"),
    ({**ON, "student__terms__crd": recipes.member("crd", negatives=8)},
     "config.student.terms.crd: keeps something for each image, but config.data.mix mixes images"),
    ({**ON, "student__terms__mlld": recipes.member("mlld")},
     "config.student.terms.mlld: compares two views of an image, but config.data.mix mixes images"),
    ({**ON, "teacher_cache": "cache"}, "config.teacher_cache: cache, but config.data.mix mixes images at random"),
])  # fmt: skip
@pytest.mark.usefixtures("tiny_resnet8")
def test_what_cannot_be_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run.run(plain(tree(**changes)), str(tmp_path))
