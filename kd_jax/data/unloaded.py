"""Sets whose images stay in their files until a batch needs them: `tfds:NAME` and `folder:DIR`, for `streaming`."""

import io
import os
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from kd_jax.data import crops, images
from kd_jax.data.cifar import MEAN, STD
from kd_jax.data.folder import TESTS, Example, _beside, _class_folders, _examples, split
from kd_jax.data.sources import Dataset
from kd_jax.data.tfds import _HAS_SIDES, FORMAT, _check_features, _splits, prepared
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
        if self.all_grey and _in_colour(encoded):
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
        return {
            name: value for name, value in self.__dict__.items() if name != "_source"
        }  # every process opens its own


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
class Part:
    """The training or test part of a set, as a source of `streaming.Stream`.

    files: Records or Files. pixels: Whole, crops.RandomCrop or crops.CentreCrop.
    """

    files: Records | Files
    pixels: Any
    num_classes: int
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.files)

    def view(self, i: int, seed: int, epoch: int) -> tuple[np.ndarray, int]:
        """Pixels (H, W, C) uint8 and label of an example."""
        encoded, label = self.files[i]
        if not 0 <= label < self.num_classes:
            raise InputError(f"{encoded.name}: labels must be 0 to {self.num_classes - 1}, got {label}")
        return self.pixels(encoded, seed, epoch, i), label


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
    where = prepared(name, dir)
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(where)
        builder.info.set_file_format(FORMAT, override=True, override_if_initialized=True)  # a set may have several
    except Exception as e:  # whatever a damaged description makes TFDS raise
        raise InputError(f"{where}: TFDS cannot read its description ({first_line(e)})") from e
    info = builder.info
    channels = _check_features(info.features, where)
    parts = [
        Records(tuple(map(os.fspath, info.splits[s].filepaths)), f"{where}: {s}", info.splits[s].num_examples)
        for s in _splits(info, where)
    ]
    plain, classes = info.name, info.features["label"].num_classes
    own = (MEAN, STD) if plain in ("cifar10", "cifar100") and channels == 3 else None
    augment = "crop" if plain in _HAS_SIDES else "crop_flip"
    return _dataset(parts, size, crop, channels, classes, own, augment, f"TFDS's {info.full_name} in {where}, streamed")


def _folder(where: str, dir: str, size: int, crop: int, test_fraction: float) -> Dataset:
    root = epath.Path(dir).expanduser() / epath.Path(where).expanduser()
    if not root.is_dir():
        raise InputError(f"data.name: no folder {root}; give folder:DIR with DIR/CLASS/* or DIR/train/CLASS/*")
    beside = any(_class_folders(root / part) for part in ("train", *TESTS))
    train, test = _beside(root) if beside else split(_examples(root), test_fraction)
    number = {name: k for k, name in enumerate(sorted({e.label for e in train}))}
    parts = [_files(root, part, number) for part in (train, test)]
    origin = f"{len(number)} class folders in {root}, streamed"
    return _dataset(parts, size, crop, 0, len(number), None, "crop_flip", origin)


def _files(root: epath.Path, part: list[Example], number: dict[str, int]) -> Files:
    names = np.array([os.fspath(e.path.relative_to(root)).encode() for e in part])
    return Files(os.fspath(root), names, np.array([number[e.label] for e in part], np.int32))


def _dataset(
    files: list, size: int, crop: int, channels: int, classes: int, norm: tuple | None, augment: str, origin: str
) -> Dataset:
    """The set of files [train, test]. channels: 1, 3, or 0 for what the images have. norm: mean and std if known."""
    if crop:
        shape, kinds = (crop, crop, 3), (crops.RandomCrop(crop), crops.CentreCrop(crop))
        norm, augment = (crops.MEAN, crops.STD), "none"
    else:
        grey = not channels and not any(_in_colour(files[0][i][0]) for i in _spread(len(files[0])))
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


def _in_colour(encoded: images.Encoded) -> bool:
    return images._head(encoded)[0] not in images._GREY


def _spread(n: int) -> list[int]:
    """At most _LOOKED_AT positions from first to last."""
    return sorted({round(p) for p in np.linspace(0, n - 1, min(n, _LOOKED_AT))})
