"""Sets whose images stay in their files until a batch needs them: `tfds:NAME` and `folder:DIR`, for `streaming`."""

import io
import os
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from kd_jax.data import crops, decoders, images
from kd_jax.data.listing import listing
from kd_jax.data.names import shown
from kd_jax.data.sources import Dataset
from kd_jax.data.tfds import opened
from kd_jax.typing import InputError, first_line

_LOOKED_AT = 64  # images of a folder, evenly spaced, that say whether it is a grey one


class Whole(NamedTuple):
    """The view that the device augments: the whole image, as `images.stack` makes it.

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
        pixels = images.decoded(encoded, size=self.size, channels=self.shape[2])
        if pixels.shape != self.shape:
            here, there = (f"{w} x {h}" for h, w, _ in (pixels.shape, self.shape))
            raise InputError(
                f"{encoded.name}: {here} pixels, but {self.first} has {there}; all images must have one size, or "
                "data.size=N resizes them to N x N"
            )
        return pixels


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
            features = tf_example_pb2.Example.FromString(self._source[i]).features.feature
            image, label = features["image"].bytes_list.value[0], features["label"].int64_list.value[0]
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
            length = len(source)
        except Exception as e:
            raise InputError(f"{self.name}: truncated or damaged ({first_line(e)})") from e
        if length != self.length:
            raise InputError(f"{self.name}: {length} records, but the set's description says {self.length}")
        return source

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # every process opens its own


@dataclass(frozen=True)
class Files:
    """Image files. names: (N,) bytes, their paths below root. labels: (N,) int32."""

    root: str
    names: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[images.Encoded, int]:
        """An image, still encoded, and its label."""
        path = epath.Path(self.root) / os.fsdecode(self.names[i])
        return images.Encoded(shown(path), partial(path.open, "rb")), int(self.labels[i])


@dataclass(frozen=True)
class Chosen:
    """Some of Records or Files. positions: (N,), where they stand there."""

    files: Any
    positions: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[images.Encoded, int]:
        """An image, still encoded, and its label."""
        return self.files[int(self.positions[i])]

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32."""
        return self.files.labels[self.positions]


@dataclass(frozen=True)
class Part:
    """The training or test part of a set, as a source of `streaming.Stream`.

    files: Records, Files or Chosen. pixels: Whole, crops.RandomCrop or crops.CentreCrop. labelled: whether the labels
    are read.
    """

    files: Records | Files | Chosen
    pixels: Any
    num_classes: int
    shape: tuple[int, int, int]
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.files)

    def view(self, i: int, seed: int, epoch: int) -> tuple[np.ndarray, int | None]:
        """Pixels (H, W, C) uint8 and label of an example, None where labels are not read."""
        encoded, label = self.files[i]
        if self.labelled:
            self._check(label, encoded.name)
        return self.pixels(encoded, seed, epoch, i), label if self.labelled else None

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) int32, or None where labels are not read. The first call reads all Records."""
        if not self.labelled:
            return None
        labels = self.files.labels
        for label in (labels.min(), labels.max()):
            self._check(label, "the training set")
        return labels

    def take(self, positions: np.ndarray) -> "Part":
        """The examples at these positions."""
        return replace(self, files=Chosen(self.files, positions))

    def unlabelled(self, num_classes: int) -> "Part":
        """The images alone, for networks of so many classes."""
        return replace(self, labelled=False, num_classes=num_classes)

    def _check(self, label: int, where: str) -> None:
        if not 0 <= label < self.num_classes:
            raise InputError(f"{where}: labels must be 0 to {self.num_classes - 1}, got {label}")


def unloaded(
    name: str, *, dir: str = "", size: int = 0, crop: int = 0, decoder: str = "pillow", test_fraction: float = 0.2,
    labels: bool = True,
) -> Dataset:  # fmt: skip
    """A set whose train and test are Parts, to be streamed.

    Args:
      name: "tfds:NAME" or "folder:DIR".
      dir, size, test_fraction: as in `data.load`.
      labels: whether a folder's labels are read, see `folder.folder`.
      crop: 0 leaves augmentation to the device: the examples are those of `data.load`, and so are mean and std, for
        which the training set is read once. Above 0 it is ImageNet's: random resized crops of crop x crop, mirrored,
        for training, and the resized centre for tests; mean and std are ImageNet's, and all images are in colour.
      decoder: of crops only: what decodes and resizes on the host, see `decoders.DECODERS`.

    Raises:
      InputError: another kind of name, and what `data.load` says of such sets.
    """
    kind, _, rest = name.partition(":")
    if kind not in ("tfds", "folder") or not rest:
        raise InputError(f"data.name: {name} lives in memory and is not streamed; accepted: tfds:NAME, folder:DIR")
    if crop and size:
        raise InputError(f"data.size: {size}, but data.crop={crop} resizes the images already; give one of them")
    decoders.check(decoder)
    pixels = {"size": size, "crop": crop, "decoder": decoder}
    return _tfds(rest, dir, **pixels) if kind == "tfds" else _folder(rest, dir, test_fraction, labels, **pixels)


def _tfds(name: str, dir: str, **pixels) -> Dataset:
    prepared = opened(name, dir)
    described = ((split, prepared.builder.info.splits[split]) for split in prepared.splits)
    files = [
        Records(tuple(map(os.fspath, info.filepaths)), f"{shown(prepared.folder)}: {split}", info.num_examples)
        for split, info in described
    ]
    about = {field: getattr(prepared, field) for field in ("augment", "source", "classes", "digest")}
    return _dataset(files, prepared.num_classes, prepared.channels, prepared.norm, **pixels, **about)


def _folder(where: str, dir: str, test_fraction: float, labels: bool, **pixels) -> Dataset:
    listed = listing(where, dir=dir, test_fraction=test_fraction, labels=labels)
    files = []
    for part in (listed.train, listed.test):
        names = np.array([os.fsencode(e.path.relative_to(listed.root)) for e in part])
        files.append(Files(os.fspath(listed.root), names, listed.labels(part)))
    about = {field: getattr(listed, field) for field in ("source", "classes", "digest", "notes")}
    return _dataset(files, len(listed.classes), 0, None, **pixels, **about, augment="crop_flip")


def _dataset(
    files: list, num_classes: int, channels: int, norm: tuple | None, *, size: int, crop: int, decoder: str, **about
) -> Dataset:
    """The set of files [train, test]. channels, norm: as in `tfds.Opened`. about: other fields of the Dataset."""
    if crop:
        shape, kinds = (crop, crop, 3), (crops.RandomCrop(crop, decoder), crops.CentreCrop(crop, decoder))
        norm, about["augment"] = (crops.MEAN, crops.STD), "none"
        if decoder == "pillow":
            about["notes"] = (*about.get("notes", ()), decoders.FASTER)
    else:
        grey = not channels and not any(images.in_colour(files[0][i][0]) for i in _evenly_spaced(len(files[0])))
        first = files[0][0][0]
        shape = images.decoded(first, size=size, channels=channels or (1 if grey else 3)).shape
        kinds = (Whole(shape, size, first.name, all_grey=grey),) * 2
    train, test = (Part(f, kind, num_classes, shape) for f, kind in zip(files, kinds, strict=True))
    mean, std = norm or statistics(train)
    return Dataset(train, test, mean, std, **about)


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


def _evenly_spaced(n: int) -> list[int]:
    """At most _LOOKED_AT positions from first to last."""
    return sorted({round(p) for p in np.linspace(0, n - 1, min(n, _LOOKED_AT))})
