"""ImageNet's augmentation, on the host: random resized crops mirrored at random for training, the resized centre
for tests. The crop of an image is a function of (data seed, epoch, index) and nothing else.

Reference: Szegedy et al., "Going deeper with convolutions", 2014, arXiv 1409.4842; the rule and its numbers are
  torchvision's (RandomResizedCrop, RandomHorizontalFlip, Resize, CenterCrop on Pillow images).
"""

import math
from typing import NamedTuple
from zlib import crc32

import numpy as np

from kd_jax.data.decoders import DECODERS
from kd_jax.data.images import Encoded

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
TRIES = 10
_KEY = crc32(b"crops")


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class RandomCrop(NamedTuple):
    """The view of a training image: a random resized crop of size x size, mirrored half of the time.

    decoder: see `decoders.DECODERS`.
    """

    size: int
    decoder: str = "pillow"

    def __call__(self, encoded: Encoded, seed: int, epoch: int, index: int) -> np.ndarray:
        """(size, size, 3) uint8."""
        rng = generator(seed, epoch, index)
        is_mirrored = rng.random() < 0.5
        image = DECODERS[self.decoder].decode(encoded)
        crop = random_resized_crop(image, rng, self.size, decoder=self.decoder)
        return mirrored(crop) if is_mirrored else crop


class CentreCrop(NamedTuple):
    """The view of a test image: the shorter side resized to 8/7 of size (256 for 224), then the middle size x size.

    decoder: see `decoders.DECODERS`. It only decodes; Pillow resizes.
    """

    size: int
    decoder: str = "pillow"

    def __call__(self, encoded: Encoded, seed: int, epoch: int, index: int) -> np.ndarray:
        """(size, size, 3) uint8; seed, epoch and index do not matter."""
        return centre_crop(DECODERS[self.decoder].decode(encoded), self.size, round(self.size * 8 / 7))


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one example in one epoch: a stream of its own of a counter-based generator."""
    counter, key = np.array([0, index, epoch, 0], np.uint64), np.array([seed, _KEY], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def mirrored(image: np.ndarray) -> np.ndarray:
    """(H, W, C) from right to left. Channel by channel is five times as fast as all at once."""
    result = np.empty_like(image)
    for channel in range(image.shape[2]):
        result[..., channel] = image[:, ::-1, channel]
    return result


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


def random_resized_crop(
    image: np.ndarray, rng: np.random.Generator, size: int, scale=SCALE, ratio=RATIO, *, decoder: str = "pillow"
) -> np.ndarray:
    """A random part of the image, resized.

    Args:
      image: (H, W, C) uint8, C = 1 or 3.
      rng, scale, ratio: see `random_box`.
      size: pixels a side.
      decoder: see `decoders.DECODERS`; what resizes.

    Returns:
      (size, size, C) uint8, read only.

    Differs: with decoder="fast" the levels are within one of torchvision's, which Pillow resizes.
    """
    top, left, h, w = random_box(*image.shape[:2], rng, scale, ratio)
    return DECODERS[decoder].resize(image[top : top + h, left : left + w], size)


def centre_crop(image: np.ndarray, size: int, shorter: int) -> np.ndarray:
    """The middle size x size pixels of the image after its shorter side has been resized to `shorter`, by Pillow.

    Args:
      image: (H, W, 3) uint8.
      size: at most `shorter`.
      shorter: pixels; the longer side is rounded down.

    Returns:
      (size, size, 3) uint8.
    """
    from PIL import Image

    height, width = image.shape[:2]
    whole = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    left, top = (round((side - size) / 2) for side in whole)
    scaled = Image.fromarray(image).resize(whole, Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((left, top, left + size, top + size)))
