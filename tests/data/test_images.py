"""Whatever is wrong with an image file is said in one line that names it; what Pillow reads is documented by tests."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError
from kd_jax.data import images
from kd_jax.data.images import Encoded, decoded

LARGEST = "an image of too many pixels; accepted: at most 178,956,970"


def encoded(raw, name="it"):
    return Encoded(name, lambda: io.BytesIO(raw))


def written(image, form="PNG", **settings):
    out = io.BytesIO()
    image.save(out, form, **settings)
    return out.getvalue()


def refusal(file):
    with pytest.raises(InputError) as e:
        images.stack([file])
    assert "\n" not in str(e.value)
    return str(e.value)


def png(width, height, *chunks):
    """A PNG of any declared size, whose pixels may be missing."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in
             (head, *chunks, (b"IEND", b"")))  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("error")
def test_an_image_above_pillows_limit():
    assert refusal(encoded(png(20000, 20000), "big.png")) == f"big.png: {LARGEST}"
    assert images._head(encoded(png(10000, 10000))) == ("RGB", (10000, 10000))  # Pillow itself only warns


@pytest.mark.parametrize(
    "raised",
    [SyntaxError("broken"), struct.error("short"), OverflowError("long"), ValueError("odd"), EOFError(), KeyError(7),
     TypeError("none"), ZeroDivisionError("by zero"), RuntimeError("two\nlines"), OSError("image file is truncated"),
     zlib.error("Error -3"), NotImplementedError("later")],
)  # fmt: skip
def test_whatever_a_plugin_raises_names_the_file(monkeypatch, raised):
    def fail(*args, **kwargs):
        raise raised

    file = encoded(written(Image.new("RGBA", (4, 4))), "a/b.png")
    for call in ("Image.open", "ImageFile.ImageFile.load", "Image.Image.convert"):
        with monkeypatch.context() as patch:
            patch.setattr(f"PIL.{call}", fail)
            assert refusal(file).startswith("a/b.png: a truncated or damaged image (")


def test_memory_and_files_that_cannot_be_opened(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise MemoryError

    missing = tmp_path / "none.png"
    assert refusal(Encoded("x", lambda: missing.open("rb"))) == "x: cannot be read (No such file or directory)"
    assert refusal(Encoded("x", lambda: tmp_path.open("rb"))) == "x: cannot be read (Is a directory)"
    file = encoded(written(Image.new("RGB", (4, 4))))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert refusal(file) == "it: an image that does not fit into memory"


def test_a_set_that_does_not_fit_into_memory(monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(np, "empty", fail)
    with pytest.raises(InputError, match=r"^2 images from it on take 6.0 GB, .*; data.stream=True leaves them") as e:
        images.stack([encoded(png(20000, 4000)), encoded(png(20000, 4000))], size=31623)
    assert "\n" not in str(e.value)


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("ours")

    monkeypatch.setattr("PIL.ImageOps.fit", fail)
    with pytest.raises(RuntimeError, match="ours"):
        decoded(encoded(written(Image.new("RGB", (4, 4)))), size=2)


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "LAB"])
def test_modes_that_are_refused(mode):
    raw = written(Image.new(mode, (4, 4)), "TIFF")
    assert refusal(encoded(raw)) == f"it: pixels of mode {mode}; accepted: 8 bits a channel, grey or colour"


@pytest.mark.parametrize(
    ("mode", "form"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("YCbCr", "TIFF")],
)
def test_modes_that_are_read_in_colour(mode, form):
    image = Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
    expected = np.asarray(Image.open(io.BytesIO(written(image, form))).convert("RGB"))
    np.testing.assert_array_equal(decoded(encoded(written(image, form))), expected)


def test_transparency_is_dropped_and_the_colours_under_it_stay():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    clear = [Image.new("RGBA", (4, 4), (10, 20, 30, 0)), palette]
    for raw in (written(clear[0]), written(clear[1], transparency=1)):
        assert (decoded(encoded(raw)) == (10, 20, 30)).all()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_pictures_in_one_file(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    one, two = (written(frames[0], form, save_all=True, append_images=rest) for rest in ([], frames[1:]))
    assert refusal(encoded(two)) == "it: several pictures in one file; accepted: one picture a file"
    assert decoded(encoded(one)).shape == (8, 8, 3)


def test_a_photograph_with_previews_is_its_first_picture():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    raw = written(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(raw)).is_animated
    assert decoded(encoded(raw))[0, 0].argmax() == 0
