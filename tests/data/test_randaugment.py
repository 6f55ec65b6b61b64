"""RandAugment against Pillow, operation by operation and whole; draws; strong views; refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from kd_jax.data import augment
from kd_jax.data.randaugment import BOX, OPS, Draw, cut, draw, randaugment, strong_views, transformed

NAMES = list(OPS)
INDEX = jnp.arange(64)
run, drawn_of = jax.jit(transformed), jax.jit(draw, static_argnums=1, static_argnames=("ops", "magnitude"))
views = jax.jit(strong_views, static_argnames=("augment", "pad", "ops", "magnitude"))


def moved(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


PILLOW = {
    "AutoContrast": lambda i, v: ImageOps.autocontrast(i),
    "Brightness": lambda i, v: ImageEnhance.Brightness(i).enhance(v),
    "Color": lambda i, v: ImageEnhance.Color(i).enhance(v),
    "Contrast": lambda i, v: ImageEnhance.Contrast(i).enhance(v),
    "Equalize": lambda i, v: ImageOps.equalize(i),
    "Identity": lambda i, v: i,
    "Posterize": lambda i, v: ImageOps.posterize(i, int(v)),
    "Rotate": lambda i, v: i.rotate(v),
    "Sharpness": lambda i, v: ImageEnhance.Sharpness(i).enhance(v),
    "ShearX": lambda i, v: moved(i, 1, v, 0, 0, 1, 0),
    "ShearY": lambda i, v: moved(i, 1, 0, 0, v, 1, 0),
    "Solarize": lambda i, v: ImageOps.solarize(i, v),
    "TranslateX": lambda i, v: moved(i, 1, 0, v * i.size[0], 0, 1, 0),
    "TranslateY": lambda i, v: moved(i, 1, 0, 0, 0, 1, v * i.size[1]),
}
BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")


def scaled(x):
    """In [0, 1], as data sets make it: XLA's division by 255 is not rounded as numpy's."""
    return np.asarray(jnp.float32(x) / 255)


def pillow(x, name, value):
    """One operation on (H, W, C)."""
    image = Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x)
    return np.asarray(PILLOW[name](image, float(value))).reshape(x.shape)


def pillow_box(x, size, centre):
    """The published cutout on (H, W, 3), its middle given."""
    image, side = Image.fromarray(x), float(size) * x.shape[1]
    (top, left), bottom, right = (max(0, int(max(0.0, c - side / 2))) for c in map(float, centre)), *x.shape[:2]
    ImageDraw.Draw(image).rectangle((left, top, min(right, left + side), min(bottom, top + side)), BOX)
    return np.asarray(image)


def images(rng, n, *shape):
    """Noise, noise of few levels, of low contrast, with half its pixels of one level, and one level, in turn."""
    x = rng.integers(0, 256, (n, *shape))
    low = rng.integers(0, 200, (n, 1, 1, shape[-1]))
    kinds = x, x // 64 * 50 + 20, low + x // 6, np.where(x > 128, 250, x), 0 * x + low
    return np.choose(np.arange(n).reshape(n, 1, 1, 1) % 5, kinds).astype(np.uint8)


def values(rng, name, n):
    """Magnitudes over the whole range, both ends included."""
    low, high, _ = OPS[name]
    return (low + (high - low) * np.concatenate([[0, 1], rng.random(n - 2)])).astype(np.float32)


def test_the_published_list():
    ranges = {
        "AutoContrast": (0, 1), "Brightness": (0.05, 0.95), "Color": (0.05, 0.95), "Contrast": (0.05, 0.95),
        "Equalize": (0, 1), "Identity": (0, 1), "Posterize": (4, 8), "Rotate": (-30, 30), "Sharpness": (0.05, 0.95),
        "ShearX": (-0.3, 0.3), "ShearY": (-0.3, 0.3), "Solarize": (0, 256), "TranslateX": (-0.3, 0.3),
        "TranslateY": (-0.3, 0.3),
    }  # fmt: skip
    assert {name: r[:2] for name, r in OPS.items()} == ranges


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 32, 1), (17, 40, 3), (3, 6, 1), (2, 6, 3), (1, 1, 3)])
def test_every_operation_is_pillows(rng, shape):
    n = 40
    x = images(rng, n * len(OPS), *shape)
    value = np.concatenate([values(rng, name, n) for name in OPS])
    op = np.repeat(np.arange(len(OPS)), n)
    ours = np.asarray(run(jnp.int32(x), op, value)).reshape(len(OPS), n, *shape)
    theirs = np.stack([pillow(*c) for c in zip(x, [NAMES[i] for i in op], value, strict=True)])
    assert ours.min() >= 0 and ours.max() <= 255
    for name, a, b in zip(OPS, ours, theirs.reshape(ours.shape).astype(int), strict=True):
        if name == "AutoContrast":
            assert set(np.unique(a - b)) <= {0, 1} and np.mean(a != b) < 0.1, name
        elif name in BLENDS:
            assert np.abs(a - b).max() <= 1 and np.mean(a != b) < 5e-4, name
        elif name == "Rotate":
            assert np.mean(a != b) < 5e-4, name
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_autocontrast_is_one_above_pillow_at_four_in_a_thousand(rng):
    """Over pairs of darkest and brightest level, every level between."""
    ends = np.sort(rng.integers(0, 256, (400, 2, 1)), axis=1)
    x = np.clip(np.arange(256), ends[:, 0], ends[:, 1]).reshape(400, 16, 16, 1).astype(np.uint8)
    gap = np.asarray(run(jnp.int32(x), jnp.zeros(400, jnp.int32), jnp.zeros(400))) - [
        pillow(i, "AutoContrast", 0).astype(int) for i in x
    ]
    inside = (x > ends[:, 0, 0].reshape(400, 1, 1, 1)) & (x < ends[:, 1, 0].reshape(400, 1, 1, 1))
    assert set(np.unique(gap)) == {0, 1} and 0.002 < gap[inside].mean() < 0.008


def test_values_that_change_nothing(rng):
    x = images(rng, len(OPS), 9, 14, 3)
    same = np.asarray(run(jnp.int32(x), jnp.arange(len(OPS)), jnp.float32([r.still for r in OPS.values()])))
    changed = {name for name, a, b in zip(OPS, same, x, strict=True) if (a != b).any()}
    assert changed <= {"AutoContrast", "Equalize"}
    far = np.asarray(run(jnp.int32(x), jnp.arange(len(OPS)), jnp.float32([r.low for r in OPS.values()])))
    assert (far[NAMES.index("Solarize")] == 255 - x[NAMES.index("Solarize")]).all()


@pytest.mark.parametrize("shape", [(32, 32), (17, 40)])
def test_cutout_is_pillows(rng, shape):
    x = images(rng, 200, *shape, 3)
    size = np.concatenate([[1e-6, 0.5], rng.random(198) * 0.5]).astype(np.float32)
    centre = np.stack([n - (n - 1) * rng.random(200) for n in shape], axis=1).astype(np.float32)
    ours = np.asarray(jax.jit(cut)(jnp.int32(x), size, centre))
    np.testing.assert_array_equal(ours, [pillow_box(*c) for c in zip(x, size, centre, strict=True)])
    np.testing.assert_array_equal(cut(jnp.int32(x), jnp.zeros(200), jnp.asarray(centre)), x)
    grey = np.asarray(cut(jnp.zeros((1, 8, 8, 1), jnp.int32), jnp.float32([0.5]), jnp.float32([[4, 4]])))
    box = np.zeros((8, 8))
    box[2:7, 2:7] = Image.new("RGB", (1, 1), BOX).convert("L").getpixel((0, 0))
    np.testing.assert_array_equal(grey[0, ..., 0], box)


def keys_of(seed, n):
    return jax.random.split(jax.random.key(seed), n)


def test_the_whole_is_pillows_one_after_the_other(rng):
    """Drawn operations in their order, the box last."""
    x, keys = images(rng, 100, 32, 32, 3), keys_of(5, 100)
    ours = np.asarray(jax.jit(lambda image: randaugment(image, keys, ops=3))(scaled(x)))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(scaled(np.rint(ours * 255)), ours)
    drawn = drawn_of(keys, (32, 32), ops=3)
    different = 0
    for image, mine, d in zip(x, np.rint(ours * 255), zip(*drawn, strict=True), strict=True):
        d = Draw(*map(np.asarray, d))
        for op, value in zip(d.op, d.value, strict=True):
            image = pillow(image, NAMES[op], value)
        different += (np.abs(pillow_box(image, d.size, d.centre) - mine) > 12).any()  # equalize may widen a level
    assert different <= 3


def test_draws(rng):
    n, (height, width) = 4000, (16, 40)
    drawn = jax.jit(lambda keys: draw(keys, (height, width)))(keys_of(1, n))
    op, value, size, centre = map(np.asarray, drawn)
    assert op.shape == value.shape == (n, 2) and size.shape == (n,) and centre.shape == (n, 2)
    for place in range(2):
        share = np.bincount(op[:, place], minlength=len(OPS)) / n
        assert share.shape == (len(OPS),) and np.abs(share - 1 / len(OPS)).max() < 0.02
    together = np.histogram2d(op[:, 0], op[:, 1], bins=len(OPS))[0] / n
    assert np.abs(together - len(OPS) ** -2).max() < 0.006  # drawn apart, and with replacement
    for i, (low, high, _) in enumerate(OPS.values()):
        drawn = (value[op == i] - low) / (high - low)
        assert (
            drawn.min() >= 0
            and drawn.max() <= 1
            and np.abs(np.quantile(drawn, [0.25, 0.75]) - [0.25, 0.75]).max() < 0.1
        )
    assert 0 <= size.min() and size.max() <= 0.5 and abs(size.mean() - 0.25) < 0.02
    for i, side in enumerate((height, width)):
        assert 1 < centre[:, i].min() < 1.3 and side - 0.3 < centre[:, i].max() <= side
    assert np.abs(np.corrcoef(np.stack([size, *centre.T, *value.T]) + 0.0) - np.eye(5)).max() < 0.1


def test_magnitude_goes_towards_what_changes_nothing(rng):
    keys = keys_of(2, 300)
    full, half, none = (drawn_of(keys, (8, 8), magnitude=m) for m in (10, 5.0, 0))
    still = np.array([r.still for r in OPS.values()])[full.op]
    np.testing.assert_array_equal(half.op, full.op)
    np.testing.assert_allclose(half.value, (full.value + still) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(half.size, full.size / 2, rtol=1e-6)
    np.testing.assert_array_equal(none.value, still)
    x = scaled(images(rng, 300, 8, 8, 3))
    after = np.asarray(jax.jit(lambda x: randaugment(x, keys, magnitude=0))(x))
    fixed = ~np.isin(full.op, [NAMES.index("AutoContrast"), NAMES.index("Equalize")]).any(axis=1)
    np.testing.assert_array_equal(after[fixed], x[fixed])
    assert (after[~fixed] != x[~fixed]).any()


def test_an_example_depends_on_its_own_key_alone(rng):
    x, keys = scaled(images(rng, 64, 8, 8, 3)), keys_of(3, 64)
    f = jax.jit(randaugment)
    whole, order = np.asarray(f(x, keys)), rng.permutation(64)[:16]
    np.testing.assert_array_equal(f(x[order], keys[order]), whole[order])
    assert np.mean((np.asarray(f(x, keys_of(4, 64))) != whole).any((1, 2, 3))) > 0.9
    plain = np.asarray(jax.jit(lambda: randaugment(x, keys, ops=0, cutout=False))())
    np.testing.assert_array_equal(plain, x)


def strong(x, key=0, epoch=3, index=INDEX, augment="crop_flip", **kwargs):
    return np.asarray(views(x, jax.random.key(key), epoch, index, augment=augment, pad=1, **kwargs))


def test_strong_views_are_functions_of_key_epoch_and_index(rng):
    x = scaled(images(rng, 64, 8, 8, 3))
    whole, order = strong(x), rng.permutation(64)
    np.testing.assert_array_equal(strong(x[order], index=INDEX[order]), whole[order])
    for kind, base in (("crop_flip", whole), ("none", strong(x, augment="none"))):
        for change in ({"key": 1}, {"epoch": 4}, {"index": INDEX + 64}):
            assert np.mean((strong(x, augment=kind, **change) != base).any((1, 2, 3))) > 0.7, (kind, change)
    assert whole.shape == x.shape and whole.min() >= 0 and whole.max() <= 1


def test_strong_views_are_cropped_and_flipped_apart_from_the_weak_ones(rng):
    """With nothing else done, every strong view is one of the crops, and as often the weak one's as chance has it."""
    x = scaled(rng.integers(1, 256, (64, 8, 8, 3)))
    bare = strong(x, ops=0, magnitude=0)
    number = augment.num_views("crop_flip", 1)
    crop = jax.jit(lambda i: augment.crop_flip(x, jnp.full(64, i), pad=1))
    crops = np.stack([crop(i) for i in range(number)])
    which = np.argmax((crops == bare).all(axis=(2, 3, 4)), axis=0)
    np.testing.assert_array_equal(crops[which, np.arange(64)], bare)
    weak = np.asarray(augment.view_ids(jax.random.key(0), 3, INDEX, augment="crop_flip", pad=1))
    assert len(set(which)) > number / 2 and np.mean(which == weak) < 0.2
    np.testing.assert_array_equal(strong(x, ops=0, magnitude=0, augment="none"), x)
    unflipped = strong(x, ops=0, magnitude=0, augment="crop")
    assert (crops[: number // 2] == unflipped).all(axis=(2, 3, 4)).any(axis=0).all()


def test_operations_are_drawn_apart_from_the_crop(rng):
    """RandAugment of the crops, of keys that depend on (key, epoch, index)."""
    x = scaled(images(rng, 64, 8, 8, 1))
    cropped, whole = strong(x, ops=0, magnitude=0), strong(x)
    changed = (cropped != whole).any((1, 2, 3))
    assert 0.7 < changed.mean() and len({w.tobytes() for w in whole[changed]}) > 30


def test_refusals():
    keys = keys_of(0, 2)
    for shape, kwargs, message in (
        ((2, 8, 8, 2), {}, "randaugment: images of 1 or 3 channels wanted, got 2"),
        ((2, 8, 8, 3), {"ops": -1}, "randaugment: ops must be at least 0, got -1"),
        ((2, 8, 8, 3), {"magnitude": 11}, "randaugment: magnitude must be from 0 to 10, got 11"),
        ((2, 8, 8, 3), {"magnitude": -1}, "randaugment: magnitude must be from 0 to 10, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            randaugment(jnp.zeros(shape), keys, **kwargs)
