"""What makes pixels of an encoded image and resizes them where crops are cut on the host: Pillow, or faster packages.

A JPEG has the same pixels with both decoders (both are libjpeg-turbo); resized pixels differ by at most one level.
Which one reads is therefore part of the configuration, and never depends on what is installed.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kd_jax.data import images
from kd_jax.typing import InputError, suggest

INSTALL = "pip install 'kd_jax[images]'"
FASTER = f"Pillow decodes and crops; --config.data.decoder=fast is faster, its pixels within one level ({INSTALL})"
_LARGE = 2**26  # pixels, from which on Pillow says whether an image is too large


class Decoder(NamedTuple):
    """decode: an Encoded to its pixels (H, W, 3) uint8. resize: (H, W, C) uint8, C = 1 or 3, and a size to (size, size,
    C): bilinear, antialiased where it shrinks, of these pixels alone. Both results are read only."""

    decode: Callable[[images.Encoded], np.ndarray]
    resize: Callable[[np.ndarray, int], np.ndarray]


def pillow_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resized by Pillow, as torchvision's crops of Pillow images are."""
    from PIL import Image

    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)


def fast_decode(encoded: images.Encoded) -> np.ndarray:
    """The pixels of an image in colour, a JPEG's by simplejpeg: they are Pillow's, which reads what is not JPEG, not
    grey or RGB, or in any way odd, and says what is wrong with it.

    Raises:
      InputError: as `images.decoded`.
    """
    import simplejpeg

    data = images.content(encoded)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("YCbCr", "RGB", "Gray") and height * width < _LARGE:
            return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        pass
    return images.decoded(encoded)


def fast_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resized by cykooz-resizer: Pillow's levels to within one, on every processor the same, in a third of the time."""
    from cykooz_resizer import ImageData, PixelType

    kind = {1: PixelType.U8, 3: PixelType.U8x3}[pixels.shape[2]]
    source, target = ImageData(*pixels.shape[1::-1], kind, pixels.tobytes()), ImageData(size, size, kind)
    resizer, options = _fast_resizer()
    resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(size, size, -1)


def _fast_resizer() -> tuple:
    """The resizer of this thread, which keeps its buffers, and its options."""
    if not hasattr(_thread, "resizer"):
        from cykooz_resizer import FilterType, ResizeAlg, ResizeOptions, Resizer

        bilinear = ResizeAlg.convolution(FilterType.bilinear)
        _thread.resizer = Resizer(), ResizeOptions(resize_alg=bilinear, use_alpha=False)
    return _thread.resizer


_thread = threading.local()
DECODERS = {"pillow": Decoder(images.decoded, pillow_resize), "fast": Decoder(fast_decode, fast_resize)}


def check(name: str) -> None:
    """Raises InputError where there is no such decoder, or its packages are not installed."""
    if name not in DECODERS:
        raise InputError(f"data.decoder: {name!r} is no decoder; {suggest(name, DECODERS)}")
    if name == "fast":
        try:
            import cykooz_resizer  # noqa: F401
            import simplejpeg  # noqa: F401
        except ImportError as e:
            raise InputError(f"data.decoder: 'fast' needs packages that are not installed ({e}): {INSTALL}") from e
