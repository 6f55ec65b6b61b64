"""Data sets that fit in memory, as arrays."""

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from kd_jax.data import identity
from kd_jax.data.names import shown
from kd_jax.typing import InputError


@dataclass(frozen=True)
class Arrays:
    """images: (N, H, W, C) uint8. labels: (N,) int32 in [0, num_classes), or None."""

    images: np.ndarray
    labels: np.ndarray | None
    num_classes: int

    def __post_init__(self):
        n = len(self.images if self.labels is None else self.labels)
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or len(self.images) != n or not n:
            raise InputError(
                f"images must be (N, H, W, C) uint8 with one label each, N > 0; "
                f"got {self.images.dtype} {self.images.shape} and {n} labels"
            )
        if self.labels is None:
            return
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.num_classes:
            raise InputError(f"labels must be 0 to {self.num_classes - 1}, got {low} to {high}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return {"image": self.images[i]} | ({} if self.labels is None else {"label": int(self.labels[i])})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.images.shape[1:]

    def take(self, positions: np.ndarray) -> "Arrays":
        """The examples at these positions."""
        labels = None if self.labels is None else self.labels[positions]
        return Arrays(self.images[positions], labels, self.num_classes)

    def unlabelled(self, num_classes: int) -> "Arrays":
        """The images alone, for networks of so many classes."""
        return Arrays(self.images, None, num_classes)


class Share(NamedTuple):
    """A part of a training set. positions: of its examples in the whole, (n,) ascending. whole: size of the whole."""

    positions: np.ndarray
    whole: int


class Dataset(NamedTuple):
    """A training and a test set (Arrays, or the Parts of `unloaded`), and what goes with them.

    mean, std: of every channel, on the scale [0, 1]. augment: the usual one, of augment.AUGMENTS. source: one printable
    line on where the data came from. classes: their names, () where only their number is known. digest: computes the
    digest of the files, None for arrays, whose content counts. notes: printable lines that a run should say once.
    share: what `train` is a part of, None where it is the whole training set.
    """

    train: Any
    test: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    source: str
    classes: tuple[str, ...] = ()
    digest: Callable[[], str] | None = None
    notes: tuple[str, ...] = ()
    share: Share | None = None

    def unlabelled(self, num_classes: int = 0) -> "Dataset":
        """The images alone, for networks of so many classes; 0 for as many as the set has."""
        classes = num_classes or self.train.num_classes
        parts = {"train": self.train.unlabelled(classes), "test": self.test.unlabelled(classes)}
        return self._replace(**parts, classes=(), source=f"{self.source}, without labels")

    @property
    def identity(self) -> dict:
        """What makes it this data set and no other, wherever it lies, as JSON has it."""
        return {
            "train": len(self.train),
            "test": len(self.test),
            "num_classes": self.train.num_classes,
            "classes": list(self.classes),
            "digest": self.digest() if self.digest else identity.of_arrays(self.train, self.test),
        }


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of uint8 images, on the scale [0, 1]."""
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
    level = np.arange(256) / 255
    mean = [float(n @ level / n.sum()) for n in counts]
    std = [float(np.sqrt(n @ (level - m) ** 2 / n.sum())) for n, m in zip(counts, mean, strict=True)]
    return tuple(mean), tuple(max(s, 1e-3) for s in std)


@lru_cache(maxsize=1)
def digits() -> Dataset:
    """scikit-learn's digits: 1,797 handwritten digits of 8 x 8 grey pixels, shipped with it.

    The last 360 are the test set: they come from other writers than most of the rest.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.round(raw.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = raw.target.astype(np.int32)
    train, test = (Arrays(images[cut], labels[cut], 10) for cut in (slice(-360), slice(-360, None)))
    return Dataset(train, test, *statistics(train.images), "crop", "scikit-learn's digits")


FASHION_DIR = "/usr/share/datasets/fashion-mnist"


def _idx(folder: epath.Path, name: str) -> np.ndarray:
    """One idx file of unsigned bytes, gzipped or not."""
    paths = [p for p in (folder / f"{name}.gz", folder / name) if p.exists()]
    if not paths:
        raise InputError(
            f"data.dir: no {name}.gz in {folder}; install the Debian package dataset-fashion-mnist "
            "(apt-get install dataset-fashion-mnist) or give a folder that holds the four idx files"
        )
    try:
        raw = paths[0].read_bytes()
        raw = gzip.decompress(raw) if paths[0].suffix == ".gz" else raw
        kind, rank = struct.unpack(">HBB", raw[:4])[1:]
        shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
        if kind != 8:
            raise ValueError("not unsigned bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as e:
        raise InputError(f"{paths[0]}: not a readable idx file of unsigned bytes ({e})") from e


@lru_cache(maxsize=1)
def fashion_mnist(dir: str = "") -> Dataset:
    """Fashion-MNIST: 60,000 + 10,000 grey images of clothes, 28 x 28, from four idx files.

    Args:
      dir: their folder; by default where the Debian package dataset-fashion-mnist puts them.

    Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017, arXiv 1708.07747.
    """
    folder = epath.Path(dir or FASHION_DIR)
    parts = [
        _idx(folder, f"{split}-{content}")
        for split in ("train", "t10k")
        for content in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    train, test = (Arrays(x[..., None], y.astype(np.int32), 10) for x, y in (parts[:2], parts[2:]))
    return Dataset(train, test, (0.2860,), (0.3530,), "crop_flip", f"Fashion-MNIST in {shown(folder)}")


@lru_cache(maxsize=4)
def synthetic(*, classes: int, size: int, channels: int, train: int, test: int) -> Dataset:
    """Random images for tests and dry runs: every class has a fixed pattern, to which noise is added."""
    if min(classes, size, channels, train, test) < 1:
        raise InputError("data.synthetic: every number must be at least 1")
    rng = np.random.default_rng(0)
    patterns = rng.uniform(64, 192, (classes, size, size, channels))

    def split(n: int) -> Arrays:
        labels = rng.permutation(np.arange(n) % classes).astype(np.int32)
        noise = rng.normal(0, 40, (n, size, size, channels))
        return Arrays(np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels, classes)

    train_set, test_set = split(train), split(test)
    return Dataset(train_set, test_set, *statistics(train_set.images), "crop_flip", "synthetic patterns under noise")
