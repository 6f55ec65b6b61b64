"""A folder of images, in class folders or without labels: `folder:DIR`."""

from functools import partial

from kd_jax.data import images
from kd_jax.data.listing import listing
from kd_jax.data.names import shown
from kd_jax.data.sources import Arrays, Dataset, statistics


def folder(where: str, *, dir: str = "", size: int = 0, test_fraction: float = 0.2, labels: bool = True) -> Dataset:
    """Images in class folders, decoded into memory.

    Three layouts are read: WHERE/train/CLASS/* with WHERE/test, WHERE/val or WHERE/validation beside it; WHERE/CLASS/*,
    of which a fixed part of every class becomes the test set; Tiny ImageNet as its archive unpacks. The test set is the
    first of test, val and validation that has class folders. Classes are numbered in the order of their names; letter
    case counts. Hidden files and those that file browsers leave (Thumbs.db, desktop.ini, __MACOSX, @eaDir) are passed
    over. Pixels are taken as they are stored, whatever orientation EXIF notes.

    Without labels every image below the folder counts, at any depth, right in it too: those below WHERE/train, with the
    first of WHERE/test, WHERE/val and WHERE/validation as the test set; where these two are not there, all below WHERE,
    of which a fixed part of every folder becomes the test set, as of every class. All are of one class without a name.

    Args:
      where: the folder; a relative one is looked for in `dir`.
      dir: "" is the current folder.
      size: see `images.stack`.
      test_fraction: part of every class that is held out where there is no test folder, in (0, 1).
      labels: whether folders are classes.

    Raises:
      InputError: a missing or unreadable folder, a link that leads nowhere, classes that train or test lacks, an empty
        class, a file that is not an image, sizes that differ. It names the file.
    """
    listed = listing(where, dir=dir, test_fraction=test_fraction, labels=labels)
    files = [images.Encoded(shown(e.path), partial(e.path.open, "rb")) for e in listed.train + listed.test]
    pixels = images.stack(files, size=size)
    cut, classes = len(listed.train), len(listed.classes)
    train = Arrays(pixels[:cut], listed.labels(listed.train), classes)
    test = Arrays(pixels[cut:], listed.labels(listed.test), classes)
    about = {"classes": listed.classes, "digest": listed.digest, "notes": listed.notes}
    return Dataset(train, test, *statistics(train.images), "crop_flip", listed.source, **about)
