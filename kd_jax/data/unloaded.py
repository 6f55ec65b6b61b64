"""Sets whose images stay in their files until a batch needs them: `tfds:NAME` and `folder:DIR`, for `streaming`."""

import io
import os
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from kd_jax.data import crops, images
from kd_jax.data.folder import listing
from kd_jax.data.sources import Dataset
from kd_jax.data.tfds import opened
from kd_jax.typing import InputError, first_line

_LOOKED_AT = 64  # images of a folder, evenly spaced, that say whether it is a grey one


class Whole(NamedTuple):
    """The view that is augmented on the device: the whole image, as `images.stack` makes it.

    shape: (H, W, C). size: see `images.stack`. first: name of the image that the shape was read from. all_grey: refuse
    an image in colour.
    """

    shape: tuple[int, int, int]
    size: int
    first: str
    all_grey: bool = False

    def __call__(self, encoded: images.Encoded, seed: int, epoch: int, index: int) -> np.ndarray:
        """(H, W, C) uint8; seed, epoch and index do not matter."""
        if self.all_grey and images.in_colour(encoded):
            raise InputError(f"{encoded.name}: in colour, but most of the set is grey; all must be one or the other")
        made = images.stack([encoded], size=self.size, channels=self.shape[2])[0]
        if made.shape != self.shape:
            here, there = (f"{w} x {h}" for h, w, _ in (made.shape, self.shape))
            raise InputError(
                f"{encoded.name}: {here} pixels, but {self.first} has {there}; all images must have one size, or "
                "data.size=N resizes them to N x N"
            )
        return made


@dataclass(frozen=True)
class Records:
    """Serialized tf.train.Example records with features image and label, in array_record files.

    name: for errors. length: how many the set's description says there are.
    """

    paths: tuple[str, ...]
    name: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[images.Encoded, int]:
        """An image, still encoded, and its label."""
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            found = tf_example_pb2.Example.FromString(self._source[i]).features.feature
            image, label = found["image"].bytes_list.value[0], found["label"].int64_list.value[0]
        except InputError:
            raise
        except Exception as e:  # array_record and protobuf have no errors of their own in common
            raise InputError(f"{self.name}[{i}]: a damaged record ({first_line(e)})") from e
        return images.Encoded(f"{self.name}[{i}]", partial(io.BytesIO, image)), label

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int32. Reads all records, once."""
        return np.array([self[i][1] for i in range(len(self))], np.int32)

    @cached_property
    def _source(self) -> Any:
        from grain.sources import ArrayRecordDataSource

        try:
            source = ArrayRecordDataSource(list(self.paths))
            found = len(source)
        except Exception as e:
            raise InputError(f"{self.name}: truncated or damaged ({first_line(e)})") from e
        if found != self.length:
            raise InputError(f"{self.name}: {found} records, but the set's description says {self.length}")
        return source

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # every process opens its own


@dataclass(frozen=True)
class Files:
    """Image files. names: (N,) bytes, below root. labels: (N,) int32."""

    root: str
    names: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[images.Encoded, int]:
        """An image, still encoded, and its label."""
        path = epath.Path(self.root) / self.names[i].decode()
        return images.Encoded(os.fspath(path), partial(path.open, "rb")), int(self.labels[i])


@dataclass(frozen=True)
class Chosen:
    """Some of Records or Files. kept: (N,) their positions."""

    files: Any
    kept: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, i: int) -> tuple[images.Encoded, int]:
        """An image, still encoded, and its label."""
        return self.files[int(self.kept[i])]

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32."""
        return self.files.labels[self.kept]


@dataclass(frozen=True)
class Part:
    """The training or test part of a set, as a source of `streaming.Stream`.

    files: Records, Files or Chosen. pixels: Whole, crops.RandomCrop or crops.CentreCrop.
    """

    files: Records | Files | Chosen
    pixels: Any
    num_classes: int
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.files)

    def view(self, i: int, seed: int, epoch: int) -> tuple[np.ndarray, int]:
        """Pixels (H, W, C) uint8 and label of an example."""
        encoded, label = self.files[i]
        self._check(label, encoded.name)
        return self.pixels(encoded, seed, epoch, i), label

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32. Of Records they take a pass over all of them, the first time."""
        found = self.files.labels
        for label in (found.min(), found.max()):
            self._check(label, "the training set")
        return found

    def only(self, kept: np.ndarray) -> "Part":
        """The examples at these positions."""
        return replace(self, files=Chosen(self.files, kept))

    def _check(self, label: int, where: str) -> None:
        if not 0 <= label < self.num_classes:
            raise InputError(f"{where}: labels must be 0 to {self.num_classes - 1}, got {label}")


def unloaded(name: str, *, dir: str = "", size: int = 0, crop: int = 0, test_fraction: float = 0.2) -> Dataset:
    """A set whose train and test are Parts, to be streamed.

    Args:
      name: "tfds:NAME" or "folder:DIR".
      dir, size, test_fraction: as in `data.load`.
      crop: 0 leaves augmentation to the device: the examples are those of `data.load`, and so are mean and std, for
        which the training set is read once. Above 0 it is ImageNet's: random resized crops of crop x crop, mirrored,
        for training, and the resized centre for tests; mean and std are ImageNet's, and all images are in colour.

    Raises:
      InputError: another kind of name, and what `data.load` says of such sets.
    """
    kind, _, rest = name.partition(":")
    if kind not in ("tfds", "folder") or not rest:
        raise InputError(f"data.name: {name} lives in memory and is not streamed; accepted: tfds:NAME, folder:DIR")
    if crop and size:
        raise InputError(f"data.size: {size}, but data.crop={crop} resizes the images already; give one of them")
    if kind == "tfds":
        return _tfds(rest, dir, size, crop)
    return _folder(rest, dir, size, crop, test_fraction)


def _tfds(name: str, dir: str, size: int, crop: int) -> Dataset:
    found = opened(name, dir)
    described = ((split, found.builder.info.splits[split]) for split in found.splits)
    files = [
        Records(tuple(map(os.fspath, info.filepaths)), f"{found.folder}: {split}", info.num_examples)
        for split, info in described
    ]
    known = {"channels": found.channels, "classes": found.num_classes, "norm": found.norm}
    made = _dataset(files, size, crop, **known, augment=found.augment, origin=found.origin)
    return made._replace(classes=found.classes, digest=found.digest)


def _folder(where: str, dir: str, size: int, crop: int, test_fraction: float) -> Dataset:
    found = listing(where, dir=dir, test_fraction=test_fraction)
    files = []
    for part in (found.train, found.test):
        names = np.array([os.fspath(e.path.relative_to(found.root)).encode() for e in part])
        files.append(Files(os.fspath(found.root), names, found.labels(part)))
    known = {"channels": 0, "classes": len(found.classes), "norm": None}
    made = _dataset(files, size, crop, **known, augment="crop_flip", origin=found.origin)
    return made._replace(classes=tuple(found.classes), digest=found.digest)


def _dataset(
    files: list, size: int, crop: int, *, channels: int, classes: int, norm: tuple | None, augment: str, origin: str
) -> Dataset:
    """The set of files [train, test]. channels, norm: as in `tfds.Opened`."""
    if crop:
        shape, kinds = (crop, crop, 3), (crops.RandomCrop(crop), crops.CentreCrop(crop))
        norm, augment = (crops.MEAN, crops.STD), "none"
    else:
        grey = not channels and not any(images.in_colour(files[0][i][0]) for i in _spread(len(files[0])))
        first = files[0][0][0]
        shape = images.stack([first], size=size, channels=channels or (1 if grey else 3)).shape[1:]
        kinds = (Whole(shape, size, first.name, all_grey=grey),) * 2
    train, test = (Part(f, kind, classes, shape) for f, kind in zip(files, kinds, strict=True))
    return Dataset(train, test, *(norm or statistics(train)), augment, origin)


def statistics(part: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel: `sources.statistics` of all images, one by one."""
    counts = np.zeros((part.shape[2], 256), np.int64)
    for i in range(len(part)):
        image, _ = part.view(i, 0, 0)
        for c in range(part.shape[2]):
            counts[c] += np.bincount(image[..., c].ravel(), minlength=256)
    level = np.arange(256) / 255
    mean = [float(n @ level / n.sum()) for n in counts]
    std = [float(np.sqrt(n @ (level - m) ** 2 / n.sum())) for n, m in zip(counts, mean, strict=True)]
    return tuple(mean), tuple(max(s, 1e-3) for s in std)


def _spread(n: int) -> list[int]:
    """At most _LOOKED_AT positions from first to last."""
    return sorted({round(p) for p in np.linspace(0, n - 1, min(n, _LOOKED_AT))})
