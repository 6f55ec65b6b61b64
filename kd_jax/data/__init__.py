"""Data: sources by name, augmentation on the device, batches that are functions of the step."""

from functools import partial

from kd_jax.data import sources
from kd_jax.data.cifar import cifar
from kd_jax.data.folder import folder
from kd_jax.data.sources import Arrays, Dataset, Share
from kd_jax.data.subset import subset as subset_of
from kd_jax.data.tfds import tfds
from kd_jax.data.unloaded import unloaded
from kd_jax.typing import InputError, suggest

__all__ = ["SOURCES", "Arrays", "Dataset", "Share", "load"]

SOURCES = {
    "cifar10": partial(cifar, 10),
    "cifar100": partial(cifar, 100),
    "digits": sources.digits,
    "fashion_mnist": sources.fashion_mnist,
    "synthetic": sources.synthetic,
}
_IN_FILES = ("cifar10", "cifar100", "fashion_mnist")


def load(
    name: str,
    *,
    dir: str = "",
    synthetic: dict | None = None,
    size: int = 0,
    test_fraction: float = 0.2,
    subset: float = 0.0,
    seed: int = 0,
    stream: bool = False,
    crop: int = 0,
    decoder: str = "pillow",
    labels: bool = True,
    classes: int = 0,
) -> Dataset:
    """The data set called `name`: Arrays, decoded into memory, or Parts, whose images stay in their files.

    Args:
      name: a key of SOURCES, "folder:DIR" or "tfds:NAME".
      dir: folder of its files, where it has files; "" is the data set's usual place.
      synthetic: sizes of the synthetic set: classes, size, channels, train, test.
      size: of folder: and tfds: only; images are resized to size x size, 0 leaves them as they are.
      test_fraction: of folder: only, where it has no test part of its own.
      subset: training examples to keep, see `subset.subset`; the test set stays whole, and so do mean
        and std, which are those of the whole training set.
      seed: of the subset.
      stream: leave the images of folder: and tfds: in their files; other sets are in memory anyway.
      crop: of streamed folder: and tfds: only; see `unloaded.unloaded`.
      decoder: of crops only; see `decoders.DECODERS`.
      labels: False leaves them out, of `train` and `test` too; a folder then needs no class folders, see
        `folder.folder`.
      classes: without labels only, of the networks; 0 for as many as the set has, which a folder does not say then.

    Raises:
      InputError: an unknown name, missing or unreadable files, a subset that cannot be drawn.
    """
    files = name.startswith(("folder:", "tfds:"))
    if crop and not (stream and files):
        raise InputError(f"data.crop: {crop}, but {name} is not cropped; only streamed folder:DIR and tfds:NAME are")
    if decoder != "pillow" and not crop:
        raise InputError(f"data.decoder: {decoder!r}, but data.crop is 0; accepted without crops: 'pillow'")
    if not (labels or classes) and name.startswith("folder:"):
        accepted = "accepted: the number of the teacher's classes"
        raise InputError(f"data.classes: 0, but {name} without labels has no classes; {accepted}")
    of_files = {"dir": dir, "size": size, "test_fraction": test_fraction, "labels": labels}
    if stream and files:
        whole = unloaded(name, crop=crop, decoder=decoder, **of_files)
    else:
        whole = _whole(name, synthetic=synthetic, **of_files)
    whole = whole if labels else whole.unlabelled(classes)
    positions, count = subset_of(whole.train, subset, seed=seed), len(whole.train)
    if positions is None:
        return whole
    source = f"{len(positions)} of the {count} of {whole.source}"
    return whole._replace(train=whole.train.take(positions), source=source, share=Share(positions, count))


def _whole(name: str, *, dir: str, synthetic: dict | None, size: int, test_fraction: float, labels: bool) -> Dataset:
    kind, _, rest = name.partition(":")
    if kind == "folder" and rest:
        return folder(rest, dir=dir, size=size, test_fraction=test_fraction, labels=labels)
    if kind == "tfds" and rest:
        return tfds(rest, dir=dir, size=size)
    if name not in SOURCES:
        raise InputError(f"data.name: unknown data set {name!r}; {suggest(name, SOURCES)}, folder:DIR, tfds:NAME")
    if size:
        raise InputError(f"data.size: {size}, but {name} is not resized; only folder:DIR and tfds:NAME are")
    if name == "synthetic":
        if synthetic is None:
            raise InputError("data.synthetic: None; give its sizes: classes, size, channels, train, test")
        return sources.synthetic(**synthetic)
    return SOURCES[name](dir=dir) if name in _IN_FILES else SOURCES[name]()
