"""Random resized crops and centre crops against torchvision's rule, written out slowly."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError
from kd_jax.data import crops
from kd_jax.data.decoders import DECODERS
from kd_jax.data.images import Encoded, decoded

BILINEAR = Image.Resampling.BILINEAR
LEVELS = {"pillow": 0, "fast": 1}  # how far a decoder's resized pixels may be from Pillow's
both = pytest.mark.parametrize("decoder", DECODERS)


def encoded(raw, name="it"):
    return Encoded(name, lambda: io.BytesIO(raw))


def written(pixels, form="JPEG", **settings):
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, form, **settings)
    return out.getvalue()


def scene(rng, height, width):
    small = rng.integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def pillow(raw):
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


class Scripted:
    """Draws that are known beforehand."""

    def __init__(self, *values):
        self.values = list(values)

    def random(self):
        return self.values.pop(0)

    def integers(self, n):
        return int(self.values.pop(0) * n)


def torchvision_box(height, width, draws):
    """RandomResizedCrop.get_params as torchvision 0.2x documents it, from a list of uniform draws."""
    draws = iter(draws)
    for _ in range(10):
        area = height * width * (0.08 + (1 - 0.08) * next(draws))
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * next(draws))
        w, h = int(round((area * aspect) ** 0.5)), int(round((area / aspect) ** 0.5))
        if 0 < w <= width and 0 < h <= height:
            i = int(next(draws) * (height - h + 1))
            return i, int(next(draws) * (width - w + 1)), h, w
    ratio = width / height
    w, h = width, height
    if ratio < 3 / 4:
        h = int(round(w / (3 / 4)))
    elif ratio > 4 / 3:
        w = int(round(h * (4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (40, 400), (400, 40), (1, 1), (7, 5), (224, 224)])
def test_the_box_is_torchvisions(rng, shape):
    for _ in range(200):
        draws = rng.random(40).tolist()
        assert tuple(crops.random_box(*shape, Scripted(*draws))) == torchvision_box(*shape, draws)


def test_ten_misses_give_the_largest_centred_part():
    wide = Scripted(*([1.0, 1.0] * 10))  # the whole area as a wide box fits neither
    assert crops.random_box(40, 400, wide) == (0, 173, 40, 53) and not wide.values
    assert crops.random_box(400, 40, Scripted(*([1.0, 0.0] * 10))) == (173, 0, 53, 40)
    assert crops.random_box(300, 310, Scripted(*([1.0, 1.0] * 10))) == (0, 0, 300, 310)


def test_areas_and_aspects_are_those_of_the_rule():
    rng = np.random.default_rng(1)
    boxes = [crops.random_box(10_000, 10_000, rng, scale=(0.1, 0.3)) for _ in range(4000)]
    areas = np.array([b.height * b.width for b in boxes]) / 1e8
    aspects = np.log([b.width / b.height for b in boxes])
    assert abs(areas.mean() - 0.2) < 0.005 and areas.min() > 0.0999 and areas.max() < 0.3001
    assert abs(aspects.mean()) < 0.02 and np.abs(aspects).max() < math.log(4 / 3) + 1e-3
    assert abs(np.mean([b.top / (10_000 - b.height) for b in boxes]) - 0.5) < 0.03
    assert min(b.left for b in boxes) < 50 and max(b.left + b.width for b in boxes) > 9950


@both
@pytest.mark.parametrize("shape", [(375, 500), (61, 47), (500, 90), (20, 20)])
def test_crops_are_pillows_or_within_one_level(rng, shape, decoder):
    image = scene(rng, *shape)
    for k in range(5):
        top, left, h, w = crops.random_box(*shape, crops.generator(0, 0, k))
        crop = crops.random_resized_crop(image, crops.generator(0, 0, k), 32, decoder=decoder)
        whole = Image.fromarray(image).crop((left, top, left + w, top + h)).resize((32, 32), BILINEAR)
        off = crop.astype(int) - np.asarray(whole)
        assert crop.shape == (32, 32, 3) and np.abs(off).max() <= LEVELS[decoder] and abs(off.mean()) < 0.05


@both
def test_a_crop_does_not_see_what_is_around_it(rng, decoder):
    resize = DECODERS[decoder].resize
    image = np.full((100, 100, 3), 255, np.uint8)
    image[20:70, 30:80] = 10
    assert (resize(image[20:70, 30:80], 24) == 10).all()
    grey = rng.integers(0, 256, (30, 20, 1), np.uint8)
    whole = np.asarray(Image.fromarray(grey[..., 0]).resize((8, 8), BILINEAR))
    assert np.abs(resize(grey, 8)[..., 0].astype(int) - whole).max() <= LEVELS[decoder]


def centre(image, size, shorter):
    """torchvision's Resize(shorter) and CenterCrop(size) on a Pillow image."""
    w, h = image.size
    short, long = (w, h) if w <= h else (h, w)
    new = (shorter, int(shorter * long / short))
    image = image.resize(new if w <= h else new[::-1], BILINEAR)
    top, left = int(round((image.height - size) / 2.0)), int(round((image.width - size) / 2.0))
    return np.asarray(image.crop((left, top, left + size, top + size)))


@both
@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (333, 333), (57, 200), (400, 271), (271, 400)])
def test_the_centre_is_torchvisions(rng, shape, decoder):
    raw = written(scene(rng, *shape), quality=90)
    expected = centre(Image.open(io.BytesIO(raw)), 224, 256)
    np.testing.assert_array_equal(crops.CentreCrop(224, decoder)(encoded(raw), 0, 0, 0), expected)
    np.testing.assert_array_equal(crops.centre_crop(pillow(raw), 31, 36), centre(Image.fromarray(pillow(raw)), 31, 36))


@both
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_decoded_to_pillows_pixels(rng, mode, subsampling, progressive, decoder):
    image = Image.fromarray(scene(rng, 45, 67)).convert(mode)
    raw = written(image, quality=80, progressive=progressive, **({"subsampling": subsampling} if mode == "RGB" else {}))
    np.testing.assert_array_equal(DECODERS[decoder].decode(encoded(raw)), pillow(raw))


@both
@pytest.mark.parametrize("form,mode", [("PNG", "RGB"), ("PNG", "P"), ("PNG", "LA"), ("BMP", "RGB"), ("GIF", "L")])
def test_what_is_no_jpeg_is_pillows(rng, form, mode, decoder):
    raw = written(Image.fromarray(scene(rng, 20, 30)).convert(mode), form)
    np.testing.assert_array_equal(DECODERS[decoder].decode(encoded(raw)), pillow(raw))


@both
def test_damaged_images_are_named(rng, decoder):
    raw = written(scene(rng, 60, 80), quality=90)
    for bad in (raw[: len(raw) // 2], raw[:100], b"", b"text", b"\xff\xd8" + b"text"):
        with pytest.raises(InputError, match="^that one: ") as e:
            crops.RandomCrop(8, decoder)(encoded(bad, "that one"), 0, 0, 0)
        assert "\n" not in str(e.value)
    np.testing.assert_array_equal(DECODERS[decoder].decode(encoded(raw + b"more")), pillow(raw))


@both
def test_a_view_is_a_function_of_seed_epoch_and_index(rng, decoder):
    raw = written(scene(rng, 120, 90), quality=90)
    view = crops.RandomCrop(16, decoder)
    views = {key: view(encoded(raw), *key).tobytes() for key in np.ndindex(3, 3, 3)}
    assert len(set(views.values())) == 27  # each another one
    assert all(view(encoded(raw), *key).tobytes() == pixels for key, pixels in reversed(views.items()))


def test_half_of_the_views_are_mirrored(rng):
    raw = written(scene(rng, 64, 64), quality=95)
    view, mirrored = crops.RandomCrop(16), 0
    for index in range(200):
        rng = crops.generator(3, 5, index)
        flip = rng.random() < 0.5
        plain = crops.random_resized_crop(pillow(raw), rng, 16)
        np.testing.assert_array_equal(view(encoded(raw), 3, 5, index), plain[:, ::-1] if flip else plain)
        mirrored += flip
    assert 75 <= mirrored <= 125


@pytest.mark.parametrize("orientation", range(1, 9))
@both
def test_pixels_are_taken_as_stored_whatever_exif_says(rng, orientation, decoder):
    pixels, exif = scene(rng, 30, 40), Image.Exif()
    exif[0x0112] = orientation
    raw = written(pixels, quality=95, exif=exif)
    assert raw != written(pixels, quality=95)
    stored = pillow(written(pixels, quality=95))
    np.testing.assert_array_equal(DECODERS[decoder].decode(encoded(raw)), stored)
    np.testing.assert_array_equal(decoded(encoded(raw)), stored)


def test_fast_leaves_what_is_too_large_to_pillow(monkeypatch):
    import simplejpeg

    large = written(Image.new("L", (16000, 16000)), quality=1)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    with pytest.raises(InputError, match="^it: an image of too many pixels; accepted: at most 178,956,970$"):
        DECODERS["fast"].decode(encoded(large))
