"""A folder of class folders of images: `folder:DIR`."""

from functools import partial
from itertools import groupby
from typing import NamedTuple
from zlib import crc32

import numpy as np
from etils import epath

from kd_jax.data import identity, images
from kd_jax.data.sources import Arrays, Dataset, statistics
from kd_jax.typing import InputError

TESTS = ("test", "val", "validation")
TINY = "val/val_annotations.txt"  # Tiny ImageNet's labels of the images in val/images; those in test have none


class Example(NamedTuple):
    """An image file and the name of its class."""

    path: epath.Path
    label: str


def folder(where: str, *, dir: str = "", size: int = 0, test_fraction: float = 0.2) -> Dataset:
    """Images in class folders, decoded into memory.

    Either WHERE/train/CLASS/* with WHERE/test or WHERE/val beside it, or WHERE/CLASS/*, of which a
    fixed part of every class becomes the test set, or Tiny ImageNet as its archive unpacks. Classes are
    numbered in the order of their names.

    Args:
      where: the folder; a relative one is looked for in `dir`.
      dir: "" is the current folder.
      size: see `images.stack`.
      test_fraction: part of every class that is held out where there is no test folder, in (0, 1).

    Raises:
      InputError: a missing folder or class, an empty class, a file that is not an image, sizes that
        differ. It names the file.
    """
    found = listing(where, dir=dir, test_fraction=test_fraction)
    files = [images.Encoded(str(e.path), partial(e.path.open, "rb")) for e in found.train + found.test]
    pixels = images.stack(files, size=size)
    cut, classes = len(found.train), len(found.classes)
    train = Arrays(pixels[:cut], found.labels(found.train), classes)
    test = Arrays(pixels[cut:], found.labels(found.test), classes)
    return Dataset(
        train, test, *statistics(train.images), "crop_flip", found.origin, tuple(found.classes), found.digest
    )


class Listing(NamedTuple):
    """What lies in a folder, unread. classes: their names, in the order of their numbers."""

    root: epath.Path
    train: list[Example]
    test: list[Example]
    classes: list[str]

    def labels(self, examples: list[Example]) -> np.ndarray:
        """(N,) int32."""
        number = {name: k for k, name in enumerate(self.classes)}
        return np.array([number[e.label] for e in examples], np.int32)

    def digest(self) -> str:
        """Of the names, sizes and classes of its files."""
        return identity.of_files([("train", self.train), ("test", self.test)], self.root)

    @property
    def origin(self) -> str:
        """As in `Dataset`."""
        return f"{len(self.classes)} class folders in {self.root}"


def listing(where: str, *, dir: str = "", test_fraction: float = 0.2) -> Listing:
    """The training and test images of a folder. Arguments and errors as for `folder`, but for what is wrong with
    images."""
    root = epath.Path(dir).expanduser() / epath.Path(where).expanduser()
    if not where or not root.is_dir():
        raise InputError(f"data.name: no folder {root}; give folder:DIR with DIR/CLASS/* or DIR/train/CLASS/*")
    if (root / TINY).exists():
        train, test = _tiny_imagenet(root)
    elif any(_class_folders(root / part) for part in ("train", *TESTS)):
        train, test = _beside(root)
    else:
        train, test = split(_examples(root), test_fraction)
    return Listing(root, train, test, sorted({e.label for e in train}))


def split(examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Train and test parts by a fixed rule: of every class the `fraction` whose file names have the
    smallest checksums is the test part. No seed enters, so every run has the same test set.

    Args:
      examples: class by class.
      fraction: in (0, 1); at least one image of a class is held out and at least one is not.

    Raises:
      InputError: a class of one image.
    """
    held = set()
    for _, group in groupby(examples, key=lambda e: e.label):
        own = sorted(group, key=lambda e: (crc32(e.path.name.encode()), e.path.name))
        if len(own) < 2:
            raise InputError(f"{own[0].path.parent}: one image only; a class needs two, one of them for the test set")
        held.update(own[: min(max(1, round(len(own) * fraction)), len(own) - 1)])
    return [e for e in examples if e not in held], [e for e in examples if e in held]


def _beside(root: epath.Path) -> tuple[list[Example], list[Example]]:
    """The parts of a folder that is split already."""
    found = [root / name for name in TESTS if (root / name).is_dir()]
    if not found:
        raise InputError(
            f"{root}: has train, but no {' or '.join(TESTS)} beside it; "
            f"folder:{root / 'train'} holds a part of every class out"
        )
    train, test = _examples(root / "train"), _examples(found[0])
    here, there = ({e.label for e in part} for part in (train, test))
    for name in sorted(here ^ there):
        has, has_not = (root / "train", found[0]) if name in here else (found[0], root / "train")
        raise InputError(f"{has_not}: no class folder {name}, which {has} has; both must have the same classes")
    return train, test


def _tiny_imagenet(root: epath.Path) -> tuple[list[Example], list[Example]]:
    """train/CLASS/images/*, and val/images/* as the test set, with a line NAME<tab>CLASS<tab>... each."""
    train = []
    for one in _class_folders(root / "train"):
        inside = one / "images"
        if not inside.is_dir():
            raise InputError(f"{one}: no folder images; beside {root / TINY} Tiny ImageNet's own layout is wanted")
        train += [Example(path, one.name) for path in sorted(inside.iterdir())]
    classes, test = {e.label for e in train}, []
    for number, line in enumerate((root / TINY).read_text().splitlines(), 1):
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if label not in classes:
            raise InputError(f"{root / TINY}:{number}: class {label!r} has no folder in {root / 'train'}")
        test.append(Example(root / "val" / "images" / name, label))
    if not test:
        raise InputError(f"{root / TINY}: no line NAME<tab>CLASS in it")
    return train, test


def _class_folders(root: epath.Path) -> list[epath.Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _examples(root: epath.Path) -> list[Example]:
    """Every image below root, by class and name; hidden files are passed over, nothing else is."""
    classes = _class_folders(root)
    if not classes:
        raise InputError(f"{root}: no class folders; accepted: {root}/CLASS/*.png (or .jpg and the like)")
    made = []
    for one in classes:
        files = sorted(path for path in one.iterdir() if not path.name.startswith("."))
        if not files:
            raise InputError(f"{one}: an empty class folder; put its images there or remove it")
        for path in files:
            if path.is_dir():
                raise InputError(f"{path}: a folder within a class folder; images must stand right in {one}")
        made += [Example(path, one.name) for path in files]
    return made
