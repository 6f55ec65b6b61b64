"""Image-classification sets that TFDS has prepared as array_record: `tfds:NAME`. Read without TensorFlow."""

import io
import json
import os
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from kd_jax.data import identity, images
from kd_jax.data.cifar import MEAN, STD
from kd_jax.data.names import shown
from kd_jax.data.sources import Arrays, Dataset, statistics
from kd_jax.typing import InputError, first_line

FORMAT = "array_record"
INFO = "dataset_info.json"
_HAS_SIDES = ("mnist", "emnist", "kmnist", "svhn_cropped")  # characters: a mirrored one is another one


def tfds(name: str, *, dir: str = "", size: int = 0) -> Dataset:
    """A prepared set, decoded into memory: its splits train and test (validation where there is no test).

    Args:
      name: NAME or NAME/CONFIG, or either with /VERSION; without one, the newest version there.
      dir: TFDS's data_dir; "" is TFDS's own default, ~/tensorflow_datasets.
      size: see `images.stack`.

    Raises:
      InputError: not prepared there (the message is the command that does it), prepared in another
        format, without images or labels, damaged. Nothing is looked for in the network.
    """
    opened_set = opened(name, dir)
    examples = [_read(opened_set.builder, split, opened_set.folder) for split in opened_set.splits]
    pixels = images.stack([e for encoded, _ in examples for e in encoded], size=size, channels=opened_set.channels)
    cut = len(examples[0][1])
    train, test = (
        _arrays(x, y, opened_set.num_classes, f"{opened_set.folder}: {split}")
        for x, (_, y), split in zip((pixels[:cut], pixels[cut:]), examples, opened_set.splits, strict=True)
    )
    about = {"classes": opened_set.classes, "digest": opened_set.digest}
    mean, std = opened_set.norm or statistics(train.images)
    return Dataset(train, test, mean, std, opened_set.augment, opened_set.source, **about)


class Opened(NamedTuple):
    """A prepared set, of which only the description has been read.

    splits: names of the training and the test split. channels: to decode to, 0 for those of the images. norm: mean
    and standard deviation where they are known. augment, source: as in `Dataset`.
    """

    folder: epath.Path
    builder: Any
    splits: tuple[str, str]
    channels: int
    num_classes: int
    norm: tuple | None
    augment: str
    source: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of their numbers."""
        return tuple(self.builder.info.features["label"].names)

    def digest(self) -> str:
        """Of name, version, and the splits: their names, sizes, and sizes of shards, which order the examples."""
        info = self.builder.info
        sizes = [(name, info.splits[name].num_examples, list(info.splits[name].shard_lengths)) for name in self.splits]
        return identity.of_text(info.full_name, sizes)


def opened(name: str, dir: str) -> Opened:
    """Find a prepared set. Arguments and errors as for `tfds`, but for what is wrong with its records."""
    folder = prepared(name, dir)
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(folder)
        builder.info.set_file_format(FORMAT, override=True, override_if_initialized=True)  # a set may have several
    except Exception as e:  # whatever a damaged description makes TFDS raise
        raise InputError(f"{folder}: TFDS cannot read its description ({first_line(e)})") from e
    info = builder.info
    splits, channels = _splits(info, folder), _check_features(info.features, folder)
    norm = (MEAN, STD) if info.name in ("cifar10", "cifar100") and channels == 3 else None
    augment, source = "crop" if info.name in _HAS_SIDES else "crop_flip", f"TFDS's {info.full_name} in {shown(folder)}"
    return Opened(folder, builder, splits, channels, info.features["label"].num_classes, norm, augment, source)


def root(dir: str) -> epath.Path:
    """TFDS's data_dir; where none is given, TFDS's own default."""
    return epath.Path(dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def command(name: str, dir: str) -> str:
    """The command that prepares or converts the set."""
    return f"python launch/prepare_data.py --dataset={name} --data_dir={root(dir)}"


def prepared(name: str, dir: str) -> epath.Path:
    """The folder of a set in the format array_record.

    Raises:
      InputError: no such set, or another format; the message ends with the command that prepares or converts it.
    """
    folder = find(name, root(dir))
    if folder is None:
        raise InputError(f"data.name: no prepared TFDS set {name} in {root(dir)}; get it by: {command(name, dir)}")
    if FORMAT not in formats(folder):
        raise InputError(
            f"data.name: {folder} is {' and '.join(formats(folder))}, accepted is {FORMAT}; "
            f"convert it by: {command(name, dir)}"
        )
    return folder


def find(name: str, data_dir: epath.Path) -> epath.Path | None:
    """The folder that holds the description of a set, of its newest version; None where there is none.

    Raises:
      InputError: the set has several configs and the name says none.
    """
    folder = data_dir / name
    if not name or name.startswith(("/", ".")) or not folder.is_dir():
        return None
    if (folder / INFO).exists():
        return folder
    versions = [path for path in folder.iterdir() if _version(path.name) and (path / INFO).exists()]
    if versions:
        return max(versions, key=lambda path: _version(path.name))
    configs = sorted(path.name for path in folder.iterdir() if path.is_dir() and find(f"{name}/{path.name}", data_dir))
    if len(configs) > 1:
        raise InputError(f"data.name: {name} has configs in {data_dir}; name one: {name}/{f', {name}/'.join(configs)}")
    return find(f"{name}/{configs[0]}", data_dir) if configs else None


def describe(folder: epath.Path) -> dict:
    """What dataset_info.json says of a prepared set."""
    try:
        info = json.loads((folder / INFO).read_text())
        if not info["name"] or not info["version"]:
            raise ValueError("no name or version")
        return info
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{folder / INFO}: not a description of a TFDS set ({first_line(e)})") from e


def formats(folder: epath.Path) -> list[str]:
    """The formats of a prepared set; the first is the one it was made in."""
    info = describe(folder)
    return [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    return tuple(int(part) for part in parts) if len(parts) == 3 and all(p.isdigit() for p in parts) else ()


def _splits(info, folder: epath.Path) -> tuple[str, str]:
    test = "test" if "test" in info.splits else "validation"
    for name in ("train", test):
        if name not in info.splits:
            wanted = name if name == "train" else "test or validation"
            raise InputError(f"{folder}: no split {wanted}; it has {', '.join(info.splits) or 'none'}")
        for path in info.splits[name].filepaths:
            if not epath.Path(path).exists():
                raise InputError(f"{path}: missing, though {folder / INFO} names it")
    return "train", test


def _check_features(features, folder: epath.Path) -> int:
    """Refuse a set that is not for image classification. Returns the number of channels to decode to, 0 for any."""
    from tensorflow_datasets import features as kinds

    for name, kind in (("image", kinds.Image), ("label", kinds.ClassLabel)):
        if name not in features:
            hint = f": an {FORMAT} without {name}s" if name == "label" else ""
            raise InputError(f"{folder}: no feature {name}{hint}; it has {', '.join(sorted(features))}")
        if not isinstance(features[name], kind):
            other = features[name]
            raise InputError(
                f"{folder}: feature {name} is a {type(other).__name__} of shape {other.shape}; "
                f"accepted: {kind.__name__}{' of shape (H, W, C)' if name == 'image' else ''}"
            )
    if features["image"].np_dtype != np.uint8:
        raise InputError(f"{folder}: feature image is {features['image'].np_dtype}; accepted: uint8")
    channels = features["image"].shape[-1]
    return 0 if channels is None else 1 if channels == 1 else 3


def _read(builder, split: str, folder: epath.Path) -> tuple[list[images.Encoded], np.ndarray]:
    """The images of a split, still encoded, and its labels (N,).

    TFDS itself decodes by OpenCV where that is installed and by Pillow elsewhere; the pixels of a JPEG then differ.
    Pillow decodes here, everywhere."""
    from tensorflow_datasets import decode

    try:
        source = builder.as_data_source(split, decoders={"image": decode.SkipDecoding()})
        examples = [source[i] for i in range(len(source))]
        if any(not e["image"] or e["label"] is None for e in examples):
            raise ValueError("empty records")  # what array_record makes of a file cut between two blocks
    except Exception as e:  # array_record and protobuf have no errors of their own in common
        raise InputError(f"{folder}: {split} is truncated or damaged ({first_line(e)})") from e
    encoded = [
        images.Encoded(f"{shown(folder)}: {split}[{i}]", partial(io.BytesIO, e["image"]))
        for i, e in enumerate(examples)
    ]
    return encoded, np.array([e["label"] for e in examples], np.int32)


def _arrays(pixels: np.ndarray, labels: np.ndarray, classes: int, where: str) -> Arrays:
    try:
        return Arrays(pixels, labels, classes)
    except InputError as e:
        raise InputError(f"{where}: {e}") from e
