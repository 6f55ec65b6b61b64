"""ImageNet's augmentation, on the host: random resized crops mirrored at random for training, the resized centre
for tests. What an image is turned into is a function of (data seed, epoch, index) and nothing else.

Reference: Szegedy et al., "Going deeper with convolutions", 2014, arXiv 1409.4842; the rule and its numbers are
  torchvision's (RandomResizedCrop, RandomHorizontalFlip, Resize, CenterCrop on Pillow images).
"""

import math
import threading
from typing import NamedTuple
from zlib import crc32

import numpy as np
import simplejpeg
from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from kd_jax.data import images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
TRIES = 10
_KEY = crc32(b"crops")
_PIXELS = {1: PixelType.U8, 3: PixelType.U8x3}


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class RandomCrop(NamedTuple):
    """The view of a training image: a random resized crop of size x size, mirrored half of the time."""

    size: int

    def __call__(self, encoded: images.Encoded, seed: int, epoch: int, index: int) -> np.ndarray:
        """(size, size, 3) uint8."""
        rng = generator(seed, epoch, index)
        mirrored = rng.random() < 0.5
        image = random_resized_crop(decode(encoded, backwards=mirrored), rng, self.size)
        # a row read backwards byte by byte is mirrored and has its channels swapped; five times as fast as [:, ::-1]
        return image.reshape(self.size, -1)[:, ::-1].reshape(image.shape) if mirrored else image


class CentreCrop(NamedTuple):
    """The view of a test image: the shorter side resized to 8/7 of size (256 for 224), then the middle size x size."""

    size: int

    def __call__(self, encoded: images.Encoded, seed: int, epoch: int, index: int) -> np.ndarray:
        """(size, size, 3) uint8; seed, epoch and index do not matter."""
        return centre_crop(decode(encoded), self.size, round(self.size * 8 / 7))


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one example in one epoch: a stream of its own of a counter-based generator."""
    counter, key = np.array([0, index, epoch, 0], np.uint64), np.array([seed, _KEY], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def decode(encoded: images.Encoded, *, backwards: bool = False) -> np.ndarray:
    """The pixels of an image in colour.

    JPEG is decoded by libjpeg-turbo without a detour: the pixels are Pillow's, which reads what is not JPEG, not grey
    or RGB, or in any way odd, and says what is wrong with it.

    Args:
      encoded: in any format and of any size.
      backwards: channels in the order blue, green, red.

    Returns:
      (H, W, 3) uint8, read only.

    Raises:
      InputError: not an image, or damaged; it names the image.
    """
    with images.readable(encoded), encoded.open() as file:
        data = file.read()
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "RGB", "Gray"):
            return simplejpeg.decode_jpeg(data, "BGR" if backwards else "RGB")
    except ValueError:
        pass
    made = images.stack([encoded], channels=3)[0]
    return made[..., ::-1] if backwards else made


def random_box(height: int, width: int, rng: np.random.Generator, scale=SCALE, ratio=RATIO) -> Box:
    """A part of random area and aspect that lies within the image.

    Args:
      height, width: of the image.
      rng: where the draws come from.
      scale: least and greatest share of the image's area, drawn uniformly.
      ratio: least and greatest width / height, whose logarithm is drawn uniformly.

    Returns:
      The first of ten draws that fits; if none does, the largest centred part whose aspect is within `ratio`.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        aspect = math.exp(low + (high - low) * rng.random())
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return Box((height - h) // 2, (width - w) // 2, h, w)


def random_resized_crop(image: np.ndarray, rng: np.random.Generator, size: int, scale=SCALE, ratio=RATIO) -> np.ndarray:
    """A random part of the image, resized.

    Args:
      image: (H, W, C) uint8, C = 1 or 3.
      rng, scale, ratio: see `random_box`.
      size: pixels a side.

    Returns:
      (size, size, C) uint8, read only.

    Differs: see `resized`.
    """
    top, left, h, w = random_box(*image.shape[:2], rng, scale, ratio)
    return resized(image[top : top + h, left : left + w], size)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) uint8, C = 1 or 3, resized to (size, size, C): bilinear, antialiased where it shrinks.

    Differs: torchvision's crops are resized by Pillow. The levels here are Pillow's to within one, on every processor
      the same, in a third of the time.
    """
    kind = _PIXELS[image.shape[2]]
    source, made = ImageData(*image.shape[1::-1], kind, image.tobytes()), ImageData(size, size, kind)
    _own.resizer.resize(source, made, _own.how)
    return np.frombuffer(made.get_buffer(), np.uint8).reshape(size, size, -1)


def centre_crop(image: np.ndarray, size: int, shorter: int) -> np.ndarray:
    """The middle size x size pixels of the image after its shorter side has been resized to `shorter`, by Pillow.

    Args:
      image: (H, W, 3) uint8.
      size: at most `shorter`.
      shorter: pixels; the longer side is rounded down.

    Returns:
      (size, size, 3) uint8.
    """
    height, width = image.shape[:2]
    whole = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    left, top = (round((side - size) / 2) for side in whole)
    scaled = Image.fromarray(image).resize(whole, Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


class _Own(threading.local):
    """A thread's resizer, which keeps its buffers."""

    def __init__(self):
        how = ResizeAlg.convolution(FilterType.bilinear)
        self.resizer, self.how = Resizer(), ResizeOptions(resize_alg=how, use_alpha=False)


_own = _Own()
