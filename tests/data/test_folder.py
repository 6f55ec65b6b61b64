"""Folders of class folders, from real PNG and JPEG files."""

import io
import re
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError, data
from kd_jax.data import images, sources
from kd_jax.data.listing import Example, split


def picture(rng, height=8, width=8, mode="RGB"):
    noise = rng.integers(0, 256, (height, width, len(Image.new(mode, (1, 1)).getbands())), np.uint8)
    return Image.fromarray(noise.squeeze(), mode=None).convert(mode)


def smooth(height, width, low, high):
    """A picture that JPEG keeps well."""
    grey = np.linspace(low, high, height * width).reshape(height, width, 1)
    return Image.fromarray(np.repeat(grey, 3, 2).astype(np.uint8))


def fill(root, rng, counts, **settings):
    """{"a": 3} -> root/a/0.png to 2.png."""
    for name, n in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            picture(rng, **settings).save(root / name / f"{i}.png")
    return root


def refusal(root, **settings):
    with pytest.raises(InputError) as e:
        data.load(f"folder:{root}", **settings)
    assert "\n" not in str(e.value)
    return str(e.value)


def read(path, mode="RGB"):
    pixels = np.asarray(Image.open(path).convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


@pytest.mark.parametrize("tests", ["test", "val"])
def test_train_and_test_side_by_side(tmp_path, rng, tests):
    fill(tmp_path / "train", rng, {"cat": 3, "ant": 2, "bee": 1}, height=6, width=9)
    fill(tmp_path / tests, rng, {"bee": 1, "ant": 1, "cat": 2}, height=6, width=9)
    d = data.load(f"folder:{tmp_path}")
    for part, root, labels in (
        (d.train, tmp_path / "train", [0, 0, 1, 2, 2, 2]),
        (d.test, tmp_path / tests, [0, 1, 2, 2]),
    ):
        assert part.labels.tolist() == labels and part.labels.dtype == np.int32 and part.num_classes == 3
        np.testing.assert_array_equal(part.images, [read(p) for p in sorted(root.glob("*/*"))])
    assert d.train.shape == (6, 9, 3) and d.augment == "crop_flip"
    assert (d.mean, d.std) == sources.statistics(d.train.images) and str(tmp_path) in d.source


def test_jpeg(tmp_path):
    for name, low, high in (("dark", 0, 60), ("light", 200, 255)):
        (tmp_path / name).mkdir()
        for i in range(2):
            smooth(16, 16, low, high).save(tmp_path / name / f"{i}.{('JPG', 'jpeg')[i]}", "JPEG", quality=95)
    d = data.load(f"folder:{tmp_path}")
    for part in (d.train, d.test):
        for image, label in zip(part.images, part.labels, strict=True):
            true = np.asarray(smooth(16, 16, *((0, 60), (200, 255))[label]), int)
            assert abs(image - true).max() <= 3


def test_a_plain_folder_is_split_by_a_fixed_stratified_rule(tmp_path, rng):
    fill(tmp_path, rng, {"a": 10, "b": 5, "c": 2, "train": 4})  # a class may be called train
    d = data.load(f"folder:{tmp_path}")
    assert np.bincount(d.test.labels).tolist() == [2, 1, 1, 1] and np.bincount(d.train.labels).tolist() == [8, 4, 1, 3]
    everything = {read(p).tobytes() for p in tmp_path.glob("*/*")}
    parts = [{x.tobytes() for x in part.images} for part in (d.train, d.test)]
    assert parts[0] | parts[1] == everything and not parts[0] & parts[1]
    for settings in ({"seed": 7}, {"seed": 7, "subset": 8}):
        np.testing.assert_array_equal(data.load(f"folder:{tmp_path}", **settings).test.images, d.test.images)
    assert np.bincount(data.load(f"folder:{tmp_path}", test_fraction=0.5).test.labels).tolist() == [5, 2, 1, 2]
    assert np.bincount(data.load(f"folder:{tmp_path}", test_fraction=0.99).train.labels).tolist() == [1, 1, 1, 1]


def test_the_rule_is_never_another_one(tmp_path):
    """Published numbers hang on it: the smallest CRC-32 of the file names, whatever the folder is called."""
    examples = [Example(tmp_path / k / f"{i}.png", k) for k in "ab" for i in range(6)]
    train, test = split(examples, 0.34)
    names = sorted((f"{i}.png" for i in range(6)), key=lambda n: crc32(n.encode()))
    assert [e.path.name for e in test] == sorted(names[:2]) * 2 == ["2.png", "3.png"] * 2
    assert train == [e for e in examples if e not in test]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("modes", "channels"),
    [(["L", "L", "L"], 1), (["L", "LA", "1"], 1), (["RGB", "L", "RGB"], 3), (["P", "RGBA", "RGB"], 3)],
)
def test_channels(tmp_path, rng, modes, channels):
    (tmp_path / "a").mkdir()
    for i, mode in enumerate(modes):
        drawn = picture(rng, mode="RGB" if mode == "P" else "L" if mode == "1" else mode).convert(mode)
        drawn.save(tmp_path / "a" / f"{i}.png", **({"transparency": bytes(range(256))} if mode == "P" else {}))
    d = data.load(f"folder:{tmp_path}")
    assert d.train.shape == d.test.shape == (8, 8, channels)
    loaded = {x.tobytes() for part in (d.train, d.test) for x in part.images}
    expected = [Image.open(p) for p in sorted(tmp_path.glob("a/*"))]
    expected = [x.convert("RGBA") if "transparency" in x.info else x for x in expected]
    assert loaded == {np.asarray(x.convert("L" if channels == 1 else "RGB")).tobytes() for x in expected}


def test_sizes(tmp_path, rng):
    fill(tmp_path, rng, {"a": 2, "b": 2})
    picture(rng, height=12, width=10).save(tmp_path / "b" / "1.png")
    message = refusal(tmp_path)
    offender, first = (re.escape(str(tmp_path)) + rest for rest in (r"/\w/\d\.png", r"/\w/\d\.png"))
    pixels = f"({offender}: 10 x 12 pixels, but {first} has 8 x 8|{offender}: 8 x 8 pixels, but {first} has 10 x 12)"
    assert re.match(f"{pixels}; all images must have one size, or data.size=N resizes", message)
    assert str(tmp_path / "b" / "1.png") in message
    assert data.load(f"folder:{tmp_path}", size=6).train.shape == (6, 6, 3)


def encoded(image, name="x.png"):
    out = io.BytesIO()
    image.save(out, "PNG")
    return images.Encoded(name, lambda: io.BytesIO(out.getvalue()))


def test_resizing_keeps_the_middle_square():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, :10, 0] = stripes[:, 10:20, 1] = stripes[:, 20:, 2] = 200
    wide, tall = (encoded(Image.fromarray(x)) for x in (stripes, stripes.swapaxes(0, 1)))
    for size in (10, 5, 20):
        resized = images.stack([wide, tall], size=size)
        assert resized.shape == (2, size, size, 3)
        inner = resized if size == 10 else resized[:, 1:-1, 1:-1]  # a scaled edge takes in a little of what lies beyond
        assert (inner == (0, 200, 0)).all()
    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None], 16, axis=0)
    half = images.stack([encoded(Image.fromarray(ramp))], size=8)[0, 4, 1:-1, 0]
    np.testing.assert_allclose(half, ramp[0].reshape(8, 2).mean(1)[1:-1], atol=1)  # antialiased, not picked


def test_wrong_folders(tmp_path, rng):
    assert refusal(tmp_path / "none") == (
        f"data.name: no folder {tmp_path / 'none'}; give folder:DIR with DIR/CLASS/* or DIR/train/CLASS/*"
    )
    assert refusal(tmp_path).startswith(f"{tmp_path}: no class folders; accepted: {tmp_path}/CLASS/*.png")
    fill(tmp_path / "plain", rng, {"a": 2, "empty": 0})
    assert refusal(tmp_path / "plain").startswith(f"{tmp_path}/plain/empty: an empty class folder")
    (tmp_path / "plain" / "empty" / ".hidden").write_text("")
    assert refusal(tmp_path / "plain").startswith(f"{tmp_path}/plain/empty: an empty class folder")
    picture(rng).save(tmp_path / "plain" / "empty" / "0.png")
    assert refusal(tmp_path / "plain").startswith(f"{tmp_path}/plain/empty: one image only")
    (tmp_path / "plain" / "empty" / "more").mkdir()
    assert refusal(tmp_path / "plain").startswith(f"{tmp_path}/plain/empty/more: a folder within a class folder")


def test_classes_that_differ(tmp_path, rng):
    fill(tmp_path / "train", rng, {"a": 1, "b": 1})
    assert refusal(tmp_path).startswith(f"{tmp_path}: has train, but no test or val or validation beside it")
    fill(tmp_path / "test", rng, {"a": 1})
    assert refusal(tmp_path).startswith(f"{tmp_path}/test: no class folder b, which {tmp_path}/train has")
    fill(tmp_path / "test", rng, {"b": 1, "c": 1})
    assert refusal(tmp_path).startswith(f"{tmp_path}/train: no class folder c, which {tmp_path}/test has")
    fill(tmp_path / "other" / "val", rng, {"a": 1})
    assert refusal(tmp_path / "other").startswith(f"{tmp_path}/other/train: no class folders")


def test_files_that_are_no_images(tmp_path, rng):
    fill(tmp_path, rng, {"a": 3})
    for name, content in (("0.png", b"text"), ("notes.txt", b""), ("1.png", b"\x89PNG\r\n\x1a\n")):
        before = (tmp_path / "a" / name).read_bytes() if (tmp_path / "a" / name).exists() else None
        (tmp_path / "a" / name).write_bytes(content)
        assert refusal(tmp_path).startswith(f"{tmp_path}/a/{name}: not an image that pillow reads")
        (tmp_path / "a" / name).unlink() if before is None else (tmp_path / "a" / name).write_bytes(before)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a" / "2.png")
    assert refusal(tmp_path).startswith(f"{tmp_path}/a/2.png: pixels of mode I;16; accepted: 8 bits")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path, rng, form):
    fill(tmp_path, rng, {"a": 1})
    broken = tmp_path / "a" / "1.x"
    picture(rng).save(broken, form)
    whole, pixels = broken.read_bytes(), read(broken)
    refused = 0
    for size in range(len(whole)):
        broken.write_bytes(whole[:size])
        try:
            d = data.load(f"folder:{tmp_path}")
        except InputError as e:
            assert str(e).startswith(f"{broken}: ")
            refused += 1
        else:  # only what ends a file was cut off
            assert pixels.tobytes() in {d.train.images.tobytes(), d.test.images.tobytes()}
    assert refused >= len(whole) - 20


def test_relative_to_data_dir(tmp_path, rng, monkeypatch):
    fill(tmp_path / "pets", rng, {"a": 2})
    monkeypatch.chdir(tmp_path)
    assert len(data.load("folder:pets").train) == 1
    monkeypatch.chdir("/")
    assert len(data.load("folder:pets", dir=str(tmp_path)).train) == 1
    for name in ("folder", "folder:"):
        with pytest.raises(InputError, match="unknown data set '.*; known: .*, folder:DIR, tfds:NAME"):
            data.load(name)


def test_only_files_are_resized():
    with pytest.raises(InputError, match="data.size: 16, but digits is not resized"):
        data.load("digits", size=16)


def tiny_imagenet(root, rng):
    """Three images of each of two classes and four of val, laid out as the archive unpacks."""
    for label in ("n02", "n01"):
        (root / "train" / label / "images").mkdir(parents=True)
        (root / "train" / label / f"{label}_boxes.txt").write_text(f"{label}_0.JPEG\t0\t0\t5\t5\n")
        for i in range(3):
            picture(rng).save(root / "train" / label / "images" / f"{label}_{i}.JPEG")
    for part in ("val", "test"):
        (root / part / "images").mkdir(parents=True)
    for i in range(4):
        picture(rng).save(root / "val" / "images" / f"val_{i}.JPEG")
    lines = [f"val_{i}.JPEG\t{label}\t0\t0\t5\t5\n" for i, label in enumerate(("n02", "n01", "n01", "n02"))]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n02\nn01\n")


def test_tiny_imagenet_as_its_archive_unpacks(tmp_path, rng):
    tiny_imagenet(tmp_path, rng)
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and dataset.test.labels.tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(dataset.train.images[4], read(tmp_path / "train" / "n02" / "images" / "n02_1.JPEG"))
    np.testing.assert_array_equal(dataset.test.images[2], read(tmp_path / "val" / "images" / "val_2.JPEG"))
    streamed = data.load(f"folder:{tmp_path}", stream=True)
    for part in ("train", "test"):
        for i, whole in enumerate(getattr(dataset, part)):
            pixels, label = getattr(streamed, part).view(i, 0, 0)
            np.testing.assert_array_equal(pixels, whole["image"])
            assert label == whole["label"]
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn03\t0\n")
    assert refusal(tmp_path) == f"{annotations}:1: class 'n03' has no folder in {tmp_path / 'train'}"
    annotations.write_text("")
    assert refusal(tmp_path) == f"{annotations}: no line NAME<tab>CLASS in it"
    (tmp_path / "train" / "n03").mkdir()
    assert "n03: no folder images" in refusal(tmp_path)
