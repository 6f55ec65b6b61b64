"""Encoded images (PNG, JPEG and whatever else pillow reads) as one uint8 array."""

import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kd_jax.typing import InputError

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
      InputError: an image that cannot be read, or sizes that differ; it names the first one.
    """
    heads = [_head(file) for file in files]
    channels = channels or (1 if all(mode in _GREY for mode, _ in heads) else 3)
    width, height = (size, size) if size else _one_size(files, [shape for _, shape in heads])
    made = np.empty((len(files), height, width, channels), np.uint8)
    for i, file in enumerate(files):
        made[i] = _pixels(file, size, channels).reshape(made.shape[1:])
    return made


def in_colour(file: Encoded) -> bool:
    """Whether an image has colours, without decoding it.

    Raises:
      InputError: as `stack`.
    """
    return _head(file)[0] not in _GREY


def _head(file: Encoded) -> tuple[str, tuple[int, int]]:
    """Mode and (width, height), without decoding."""
    with readable(file), file.open() as raw, Image.open(raw) as image:
        if image.mode not in _GREY + _COLOUR:
            raise InputError(f"{file.name}: pixels of mode {image.mode}; accepted: 8 bits a channel, grey or colour")
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


def _pixels(file: Encoded, size: int, channels: int) -> np.ndarray:
    with readable(file), file.open() as raw, Image.open(raw) as image:
        if "transparency" in image.info:  # else pillow warns
            image = image.convert("RGBA")
        image = image.convert("L" if channels == 1 else "RGB")
        if size:  # the centred square, then scaled: as scaling the shorter side and cropping
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        return np.asarray(image)


@contextmanager
def readable(file: Encoded):
    """Whatever a damaged file makes pillow raise, as an error that names the file."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError as e:
        raise InputError(f"{file.name}: not an image that pillow reads (PNG, JPEG, ...)") from e
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as e:
        raise InputError(f"{file.name}: a truncated or damaged image ({e})") from e
