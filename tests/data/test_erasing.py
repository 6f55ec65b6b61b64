"""Random erasing: the distribution of timm's rectangles, what fills them, what a draw depends on, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, config, data
from kd_jax.config import parse
from kd_jax.data.augment import root_key
from kd_jax.data.erasing import erased, rectangle
from kd_jax.data.mixing import mixed
from kd_jax.distributed.mesh import Layout
from kd_jax.train import run
from kd_jax.train.batches import batches_of
from tests.conftest import tree

KEY = root_key(0)
OFF = vars(config.Erase())
RANGES = {name: OFF[name] for name in ("min_area", "max_area", "min_aspect")}
LOOK = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
COUNT = 4000


def law(height: int, width: int, points: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the rows and of the columns of a rectangle by timm's lines, areas and aspects on a fine grid."""
    share = (np.arange(points) + 0.5) / points
    area = (0.02 + share * (1 / 3 - 0.02))[:, None] * height * width
    aspect = np.exp((2 * share - 1) * np.log(1 / 0.3))
    rows, columns = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (rows < height) & (columns < width)
    each = (np.bincount(x[fits].astype(int), minlength=side) for x, side in ((rows, height), (columns, width)))
    return tuple(counts / fits.sum() for counts in each)


@pytest.mark.parametrize("sides", [(16, 16), (24, 12)])
def test_rectangles_have_timms_distribution(sides):
    """Sides by their exact law, within five deviations; the corner is uniform, ends included."""
    keys = jax.random.split(KEY, COUNT)
    cells = np.asarray(jax.jit(jax.vmap(lambda key: rectangle(key, sides, **RANGES)))(keys))
    lengths = cells.any(2).sum(1), cells.any(1).sum(1)
    np.testing.assert_array_equal(cells.sum((1, 2)), lengths[0] * lengths[1])
    assert (cells.sum((1, 2)) > 0).all()  # ten tries are enough for images of these sides
    for axis, (wanted, length, side) in enumerate(zip(law(*sides), lengths, sides, strict=True)):
        share = np.bincount(length, minlength=side) / COUNT
        assert share.shape == wanted.shape
        assert (abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / COUNT) + 1e-3).all()
        start = cells.any(2 - axis).argmax(1)
        length_most = np.bincount(length).argmax()
        starts = np.bincount(start[length == length_most], minlength=side)[: side - length_most + 1]
        assert starts.sum() == (length == length_most).sum() and (starts > 0).all()
        assert abs(starts / starts.sum() - 1 / len(starts)).max() < 5 / np.sqrt(starts.sum() * len(starts))


def test_a_rectangle_that_fits_nowhere_erases_nothing():
    """As high and wide as the image at least: timm asks for less."""
    ranges = {"min_area": 1.0, "max_area": 1.0, "min_aspect": 1.0}
    assert not rectangle(KEY, (8, 8), **ranges).any()


def erase(image, index=None, epoch=0, **how):
    batch = {"image": image, "index": jnp.arange(len(image)) if index is None else index}
    how = {**OFF, **LOOK, "probability": 1.0, **how}
    return np.asarray(jax.jit(lambda b, e: erased(b, KEY, e, **how)["image"])(batch, epoch))


def test_probability():
    image = jnp.zeros((COUNT, 8, 8, 1))
    changed = erase(image, probability=0.25, mean=(1.0,), std=(1.0,), fill="constant").any((1, 2, 3))
    assert abs(changed.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / COUNT)
    assert not erase(image, probability=0.0).any()


@pytest.mark.parametrize(("fill", "values"), [("pixel", None), ("channel", 3), ("constant", 1)])
def test_fill(fill, values):
    """Standard normal numbers or zeros once images are normalised, not cut to [0, 1]; all else stays as it is."""
    image = jnp.full((512, 16, 16, 3), 5.0)
    out = erase(image, fill=fill)
    inside = (out != 5.0).all(-1)
    assert (inside == (out != 5.0).any(-1)).all() and inside.any((1, 2)).all()
    normal = (out - np.float32(LOOK["mean"])) / np.float32(LOOK["std"])
    if fill == "constant":
        np.testing.assert_allclose(normal[inside], 0, atol=1e-5)
        return
    drawn = normal[inside] if fill == "pixel" else np.stack([x[i][0] for x, i in zip(normal, inside, strict=True)])
    deviation = 5 / np.sqrt(len(drawn))
    np.testing.assert_allclose(drawn.mean(0), 0, atol=deviation)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(3), atol=2 * deviation)
    for x, cells in zip(out[:8], inside[:8], strict=True):
        assert len(np.unique(x[cells])) == (values or 3 * cells.sum())


def test_a_draw_is_a_function_of_epoch_and_index(rng):
    image = jnp.float32(rng.uniform(size=(6, 8, 8, 3)))
    order = rng.permutation(6)
    np.testing.assert_array_equal(erase(image, epoch=3)[order], erase(image[order], jnp.asarray(order), epoch=3))
    assert not np.array_equal(erase(image, epoch=3), erase(image, epoch=4))
    assert not np.array_equal(erase(image), erase(image, jnp.arange(6) + 1))


ON = {"data__erase__probability": 0.5}


def batch_of(dataset, changes=None):
    """The second batch of a recipe, and the dataset's key."""
    recipe = parse(json.loads(json.dumps(tree(**(changes or {})))))
    with batches_of(recipe, Layout(), dataset) as batches:
        return batches.train(1, 8), batches.key


@pytest.mark.full
def test_memory_and_stream_erase_alike_before_they_mix():
    """As DeiT does: what is pasted or blended has its own rectangle."""
    dataset = data.load("synthetic", synthetic={"classes": 4, "size": 8, "channels": 3, "train": 16, "test": 8})
    plain, key = batch_of(dataset)
    how = {**OFF, "probability": 0.5, "mean": dataset.mean, "std": dataset.std}
    wanted = erased(plain, key, 0, **how)["image"]
    assert not np.array_equal(wanted, plain["image"])
    for stream in (False, True):
        got, _ = batch_of(dataset, {**ON, "data__stream": stream})
        np.testing.assert_allclose(got["image"], wanted, atol=1e-6)
    blended, _ = batch_of(dataset, {**ON, "data__mix__mixup": 1.0})
    then = mixed({**plain, "image": wanted}, key, 0, num_classes=4, **{**vars(config.Mix()), "mixup": 1.0})
    np.testing.assert_allclose(blended["image"], then["image"], atol=1e-5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"data__erase__probability": 1.5}, "config.data.erase.probability: must be 0 to 1, got 1.5"),
    ({"data__erase__fill": "rand"}, "config.data.erase.fill: must be pixel, channel or constant, got 'rand'"),
    ({"data__erase__min_area": 0.5}, r"config.data.erase.min_area: must be above 0, at most max_area \(0.333333\)"),
    ({"data__erase__max_area": 1.5}, "config.data.erase.max_area: must be above 0, at most 1, got 1.5"),
    ({"data__erase__min_aspect": 0.0}, "config.data.erase.min_aspect: must be above 0, at most 1, got 0"),
])  # fmt: skip
def test_what_is_out_of_range_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        parse(json.loads(json.dumps(tree(**changes))))


@pytest.mark.usefixtures("tiny_resnet8")
def test_a_cache_of_the_teacher_is_refused(tmp_path):
    message = "config.teacher_cache: cache, but config.data.erase erases parts of images at random"
    with pytest.raises(InputError, match=message):
        run.run(json.loads(json.dumps(tree(**ON, teacher_cache="cache"))), str(tmp_path))
