"""Encoded images (PNG, JPEG and whatever else Pillow reads) as one uint8 array.

Pixels are taken as they are stored: the orientation that a camera notes in EXIF is not applied, as torchvision's
ImageFolder and TFDS do not apply it either. Transparency is dropped, and the colours under it stay.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from kd_jax.typing import InputError, first_line

_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")


class Encoded(NamedTuple):
    """An image that is not decoded yet. name: for errors."""

    name: str
    open: Callable[[], BinaryIO]


def stack(files: Sequence[Encoded], *, size: int = 0, channels: int = 0) -> np.ndarray:
    """Decode images into one array.

    Args:
      files: N of them, N > 0.
      size: 0 takes the images as they are, and then all must have one size; otherwise the shorter
        side is resized to `size` and the middle `size` x `size` pixels are kept.
      channels: 1 or 3; 0 is 1 where every image is grey, else 3.

    Returns:
      (N, H, W, C) uint8.

    Raises:
      InputError: an image that cannot be read, or sizes that differ; it names the first one. Too little memory.
    """
    heads = [_head(file) for file in files]
    channels = channels or (1 if all(mode in _GREY for mode, _ in heads) else 3)
    width, height = (size, size) if size else _one_size(files, [shape for _, shape in heads])
    shape = (len(files), height, width, channels)
    try:
        pixels = np.empty(shape, np.uint8)
    except MemoryError as e:
        raise InputError(
            f"{len(files):,} images from {files[0].name} on take {math.prod(shape) / 1e9:,.1f} GB, more than there is; "
            "data.stream=True leaves them in their files, data.size=N makes them smaller"
        ) from e
    for i, file in enumerate(files):
        pixels[i] = decoded(file, size=size, channels=channels)
    return pixels


def decoded(file: Encoded, *, size: int = 0, channels: int = 3) -> np.ndarray:
    """One image as (H, W, C) uint8, read only.

    Args:
      file: in any format and of any size.
      size: see `stack`.
      channels: 1 or 3.

    Raises:
      InputError: an image that cannot be read; it names the image.
    """
    from PIL import Image, ImageOps

    mode = "L" if channels == 1 else "RGB"
    with _image(file) as image:
        with _errors_named(file):
            image.load()
            if "transparency" in image.info:  # else Pillow warns
                image = image.convert("RGBA")
            if image.mode != mode:
                image = image.convert(mode)
        if size:  # the centred square, then scaled: as scaling the shorter side and cropping
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels.reshape(*pixels.shape[:2], channels)


def in_colour(file: Encoded) -> bool:
    """Whether an image has colours, without decoding it.

    Raises:
      InputError: as `decoded`.
    """
    return _head(file)[0] not in _GREY


def content(file: Encoded) -> bytes:
    """The bytes of an image, still encoded.

    Raises:
      InputError: the file cannot be read.
    """
    with _errors_named(file), file.open() as raw:
        return raw.read()


def _head(file: Encoded) -> tuple[str, tuple[int, int]]:
    """Mode and (width, height), without decoding."""
    with _image(file) as image:
        return image.mode, image.size


def _one_size(files: Sequence[Encoded], shapes: list[tuple[int, int]]) -> tuple[int, int]:
    for file, shape in zip(files, shapes, strict=True):
        if shape != shapes[0]:
            here, first = (f"{w} x {h}" for w, h in (shape, shapes[0]))
            raise InputError(
                f"{file.name}: {here} pixels, but {files[0].name} has {first}; all images must have one size, "
                "or data.size=N resizes them to N x N"
            )
    return shapes[0]


@contextmanager
def _image(file: Encoded) -> Iterator[Any]:
    """A Pillow image of an accepted mode, its pixels not decoded yet."""
    from PIL import Image

    with _errors_named(file):
        raw = file.open()
    with raw:
        with _errors_named(file):
            image = Image.open(raw)
            several = getattr(image, "is_animated", False) and image.format != "MPO"  # a photograph with its previews
        if several:
            raise InputError(f"{file.name}: several pictures in one file; accepted: one picture a file")
        if image.mode not in _GREY + _COLOUR:
            raise InputError(f"{file.name}: pixels of mode {image.mode}; accepted: 8 bits a channel, grey or colour")
        yield image


@contextmanager
def _errors_named(file: Encoded) -> Iterator[None]:
    """Whatever is raised becomes an error that names the file. Only calls that read a user's file may stand under it.

    Pillow's plugins have no common error: a damaged file raises SyntaxError, struct.error, OverflowError and more.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # at twice that size Pillow refuses
            yield
    except UnidentifiedImageError as e:
        raise InputError(f"{file.name}: not an image that pillow reads (PNG, JPEG, ...)") from e
    except Image.DecompressionBombError as e:
        largest = 2 * Image.MAX_IMAGE_PIXELS
        raise InputError(f"{file.name}: an image of too many pixels; accepted: at most {largest:,}") from e
    except MemoryError as e:
        raise InputError(f"{file.name}: an image that does not fit into memory") from e
    except Exception as e:
        system = isinstance(e, OSError) and e.strerror  # not Pillow's word, but the operating system's
        trouble = f"cannot be read ({system})" if system else f"a truncated or damaged image ({first_line(e)})"
        raise InputError(f"{file.name}: {trouble}") from e
