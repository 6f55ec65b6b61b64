"""What lies in a folder of images, before any of them is read."""

import os
import unicodedata
from collections import defaultdict
from itertools import groupby
from typing import NamedTuple
from zlib import crc32

import numpy as np
from etils import epath

from kd_jax.data import identity
from kd_jax.data.names import shown
from kd_jax.typing import InputError

TESTS = ("test", "val", "validation")
TINY = "val/val_annotations.txt"  # Tiny ImageNet's labels of the images in val/images; those in test have none
_LEFTOVERS = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # of file browsers and archives; lower case


class Example(NamedTuple):
    """An image file and the name of its class."""

    path: epath.Path
    label: str


class Listing(NamedTuple):
    """The images of a folder. classes: their names, in the order of their numbers. notes: see `Dataset`."""

    root: epath.Path
    train: list[Example]
    test: list[Example]
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    def labels(self, examples: list[Example]) -> np.ndarray:
        """(N,) int32."""
        number = {name: k for k, name in enumerate(self.classes)}
        return np.array([number[e.label] for e in examples], np.int32)

    def digest(self) -> str:
        """Of the names, sizes and classes of its files."""
        return identity.of_files([("train", self.train), ("test", self.test)], self.root)

    @property
    def source(self) -> str:
        """As in `Dataset`."""
        return f"{len(self.classes)} class folders in {shown(self.root)}" if any(self.classes) else shown(self.root)


def listing(where: str, *, dir: str = "", test_fraction: float = 0.2, labels: bool = True) -> Listing:
    """The training and test images of a folder. See `folder.folder`, whose arguments these are.

    Raises:
      InputError: as `folder.folder`, but for what is wrong with the content of images.
    """
    root = epath.Path(dir).expanduser() / epath.Path(where).expanduser()
    if not where or not root.is_dir():
        accepted = "DIR/CLASS/* or DIR/train/CLASS/*" if labels else "images below it"
        raise InputError(f"data.name: no folder {shown(root)}; give folder:DIR with {accepted}")
    if not labels:
        return Listing(root, *_unlabelled(root, test_fraction), ("",), ())
    folders, notes = entries(root).folders, []
    parts = [path for path in folders if path.name in ("train", *TESTS)]
    if (root / TINY).exists():
        train, test = _tiny_imagenet(root)
    elif any(entries(path).folders for path in parts):
        train, test = _beside(root, [path for path in parts if path.name != "train"], notes)
    elif parts and parts == folders:  # images without labels, and no classes called train and test
        names = " and ".join(path.name for path in parts)
        accepted = f"{shown(parts[0])}/CLASS/*.png, or config.data.labels=False"
        raise InputError(f"{shown(root)}: {names} without class folders; accepted: {accepted}")
    else:
        train, test = split(_examples(root, notes), test_fraction)
    classes = tuple(sorted({e.label for e in train}))
    return Listing(root, train, test, classes, (*notes, *_alike(classes)))


def split(examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Train and test parts by a fixed rule: of every class, a folder, the `fraction` whose file names have the
    smallest checksums is the test part. No seed enters, so every run has the same test set.

    Args:
      examples: folder by folder.
      fraction: in (0, 1); at least one image of a class is held out and at least one is not.

    Raises:
      InputError: a class of one image; without labels one image is not held out.
    """
    test = set()
    for _, group in groupby(examples, key=lambda e: e.path.parent):
        ordered = sorted(group, key=lambda e: (crc32(os.fsencode(e.path.name)), e.path.name))
        if len(ordered) < 2 and not ordered[0].label:
            continue
        if len(ordered) < 2:
            where = shown(ordered[0].path.parent)
            raise InputError(f"{where}: one image only; a class needs two, one of them for the test set")
        test.update(ordered[: min(max(1, round(len(ordered) * fraction)), len(ordered) - 1)])
    return [e for e in examples if e not in test], [e for e in examples if e in test]


def _unlabelled(root: epath.Path, fraction: float) -> tuple[list[Example], list[Example]]:
    """The training and test images of a folder without labels, all of the class ""."""
    if (root / TINY).exists():
        return tuple([e._replace(label="") for e in part] for part in _tiny_imagenet(root))
    there = {path.name: path for path in entries(root).folders}
    tests = [there[name] for name in TESTS if name in there]
    if "train" in there and tests:
        train, test = ([Example(path, "") for path in _below(part)] for part in (there["train"], tests[0]))
    else:
        train, test = split([Example(path, "") for path in _below(root)], fraction)
    if not train or not test:
        count = f"{len(train)} images to train on and {len(test)} for the test set"
        raise InputError(f"{shown(root)}: {count}; accepted: at least one of each, two in a folder that is not split")
    return train, test


def _below(folder: epath.Path) -> list[epath.Path]:
    """Every file below a folder, those right in it first."""
    folders, files = entries(folder)
    return files + [path for one in folders for path in _below(one)]


class Entries(NamedTuple):
    """What a folder holds, in the order of names, without hidden entries and those that file browsers leave."""

    folders: list[epath.Path]
    files: list[epath.Path]


def entries(folder: epath.Path) -> Entries:
    """The content of a folder.

    Raises:
      InputError: a folder that cannot be read, a link that leads nowhere, an entry that is neither file nor folder.
    """
    folders, files = [], []
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.name.lower() in _LEFTOVERS:
                continue
            if os.path.isfile(path):
                files.append(path)
            elif path.is_dir():
                folders.append(path)
            elif "://" in os.fspath(path):  # an object store has neither links nor devices
                files.append(path)
            elif os.path.islink(path):
                target = shown(os.readlink(path))
                raise InputError(f"{shown(path)}: a link to {target}, which leads nowhere; mend or remove it")
            else:
                raise InputError(f"{shown(path)}: neither a file nor a folder that can be read; remove it")
    except OSError as e:
        raise InputError(f"{shown(folder)}: cannot be read ({e.strerror or e})") from e
    return Entries(folders, files)


def _beside(root: epath.Path, parts: list[epath.Path], notes: list[str]) -> tuple[list[Example], list[Example]]:
    """The training images of root/train and the test images of the first of `parts` that has class folders."""
    where = root / "train"
    train = _examples(where, notes)
    if not parts:
        raise InputError(
            f"{shown(root)}: has train, but no {' or '.join(TESTS)} beside it; "
            f"folder:{shown(where)} holds a part of every class out"
        )
    chosen = _labelled(parts, {e.label for e in train})
    if chosen is None:
        raise InputError(
            f"{shown(root)}: {' and '.join(path.name for path in parts)} beside train without class folders; accepted: "
            f"{shown(parts[0])}/CLASS/*.png; or folder:{shown(where)} holds a part of every class out"
        )
    if chosen != parts[0]:
        notes.append(f"{shown(parts[0])} has no class folders of {shown(where)}; the test set is {shown(chosen)}")
    test = _examples(chosen, notes)
    _same_classes(where, train, chosen, test)
    return train, test


def _labelled(parts: list[epath.Path], classes: set[str]) -> epath.Path | None:
    """The first part with class folders that the training set has too, else the first with any folder."""
    names = {path: {one.name for one in entries(path).folders} for path in parts}
    shared = [path for path in parts if names[path] & classes]
    return next(iter(shared or [path for path in parts if names[path]]), None)


def _same_classes(here: epath.Path, train: list[Example], there: epath.Path, test: list[Example]) -> None:
    """Refuse parts whose classes have different names."""
    ours, theirs = ({e.label for e in part} for part in (train, test))
    if ours == theirs:
        return
    lacks, has = (there, here) if ours - theirs else (here, there)
    missing, others = sorted(ours - theirs or theirs - ours), theirs if ours - theirs else ours
    names = ", ".join(map(shown, missing[:5])) + (", ..." if missing[5:] else "")
    near = next((other for other in sorted(others) if _folded(other) == _folded(missing[0])), None)
    hint = f" (it has {shown(near)}: names must be equal to the letter)" if near else ""
    raise InputError(
        f"{shown(lacks)}: no class folder {names}, which {shown(has)} has{hint}; both must have the same classes"
    )


def _folded(name: str) -> str:
    """The same for names that differ by letter case or by how Unicode composes accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _alike(classes: tuple[str, ...]) -> list[str]:
    """A note where classes have names that are easily taken for one."""
    groups = defaultdict(list)
    for name in classes:
        groups[_folded(name)].append(shown(name))
    same = [" and ".join(group) for group in groups.values() if len(group) > 1]
    if not same:
        return []
    return [f"classes {', '.join(same[:3])}{', ...' if same[3:] else ''} differ by letter case only; each is a class"]


def _tiny_imagenet(root: epath.Path) -> tuple[list[Example], list[Example]]:
    """train/CLASS/images/*, and val/images/* as the test set, with a line NAME<tab>CLASS<tab>... each."""
    train, annotations = [], root / TINY
    for one in entries(root / "train").folders if (root / "train").is_dir() else []:
        inside = one / "images"
        if not inside.is_dir():
            raise InputError(f"{shown(one)}: no folder images; beside {shown(annotations)} each class has one")
        train += [Example(path, one.name) for path in _images(inside)]
    classes, test = {e.label for e in train}, []
    for number, line in enumerate(annotations.read_bytes().splitlines(), 1):
        name, label = (os.fsdecode(part) for part in (line + b"\t").split(b"\t")[:2])
        if label not in classes:
            where = shown(root / "train")
            raise InputError(f"{shown(annotations)}:{number}: class '{shown(label)}' has no folder in {where}")
        test.append(Example(root / "val" / "images" / name, label))
    if not test:
        raise InputError(f"{shown(annotations)}: no line NAME<tab>CLASS in it")
    return train, test


def _examples(root: epath.Path, notes: list[str]) -> list[Example]:
    """Every image below root, by class and name."""
    classes, strays = entries(root) if root.is_dir() else Entries([], [])
    if not classes:
        raise InputError(f"{shown(root)}: no class folders; accepted: {shown(root)}/CLASS/*.png (or .jpg and the like)")
    if strays:
        notes.append(
            f"{shown(root)}: files beside class folders are not read: {len(strays)}, {shown(strays[0].name)} first"
        )
    return [Example(path, one.name) for one in classes for path in _images(one)]


def _images(folder: epath.Path) -> list[epath.Path]:
    """The files of a class."""
    folders, files = entries(folder)
    if folders:
        raise InputError(
            f"{shown(folders[0])}: a folder within a class folder; images must stand right in {shown(folder)}"
        )
    if not files:
        raise InputError(f"{shown(folder)}: an empty class folder; put its images there or remove it")
    return files
