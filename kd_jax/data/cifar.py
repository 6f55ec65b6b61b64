"""CIFAR-10 and CIFAR-100 from their published archives, read with the standard library.

Both forms are read, packed or unpacked: `cifar-100-python` (one pickle a split) and
`cifar-100-binary` (label bytes, then 3072 pixel bytes, an image).
"""

import io
import tarfile
import zlib
from functools import lru_cache

import numpy as np
from etils import epath

from kd_jax.data.names import shown
from kd_jax.data.pickles import Unpickler
from kd_jax.data.sources import Arrays, Dataset
from kd_jax.typing import InputError

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # the papers', CIFAR-100's

# name -> members of a split in each form, the pickle's label key, label bytes an image (the last counts)
_LAYOUT = {
    10: {
        "python": ("cifar-10-python", "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
        "binary": (
            "cifar-10-binary",
            "cifar-10-batches-bin",
            [f"data_batch_{i}.bin" for i in range(1, 6)],
            ["test_batch.bin"],
        ),
        "label": b"labels",
        "label_bytes": 1,
    },
    100: {
        "python": ("cifar-100-python", "cifar-100-python", ["train"], ["test"]),
        "binary": ("cifar-100-binary", "cifar-100-binary", ["train.bin"], ["test.bin"]),
        "label": b"fine_labels",
        "label_bytes": 2,
    },
}


def _members(folder: epath.Path, archive: str, inside: str, names: list[str]) -> list[bytes] | None:
    """The named files of an unpacked folder or of its archive; None where neither exists."""
    for where in (folder / inside, folder):
        if all((where / name).exists() for name in names):
            return [(where / name).read_bytes() for name in names]
    packed = folder / f"{archive}.tar.gz"
    if not packed.exists():
        return None
    try:
        with packed.open("rb") as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
            return [tar.extractfile(f"{inside}/{name}").read() for name in names]
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as e:
        raise InputError(f"{packed}: not a whole archive of {inside} ({e})") from e


def _parse(raw: bytes, form: str, layout: dict) -> tuple[np.ndarray, np.ndarray]:
    """Planar pixels (N, 3072) and labels (N,) of one file."""
    if form == "python":
        batch = Unpickler(io.BytesIO(raw), encoding="bytes").load()
        return np.asarray(batch[b"data"], np.uint8), np.asarray(batch[layout["label"]], np.int32)
    rows = np.frombuffer(raw, np.uint8).reshape(-1, layout["label_bytes"] + 3072)
    return rows[:, layout["label_bytes"] :], rows[:, layout["label_bytes"] - 1].astype(np.int32)


def _split(folder: epath.Path, classes: int, part: int) -> tuple[Arrays, str]:
    layout = _LAYOUT[classes]
    for form in ("python", "binary"):
        archive, inside, *names = layout[form]
        files = _members(folder, archive, inside, names[part])
        if files is None:
            continue
        try:
            parsed = [_parse(raw, form, layout) for raw in files]
            pixels = np.concatenate([p for p, _ in parsed]).reshape(-1, 3, 32, 32)
        except Exception as e:  # a damaged pickle raises anything
            raise InputError(f"{folder}: {names[part]} are not CIFAR-{classes} {form} files ({e})") from e
        images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        return Arrays(images, np.concatenate([y for _, y in parsed]), classes), inside
    archives = " or ".join(f"{layout[form][0]}.tar.gz" for form in ("python", "binary"))
    raise InputError(
        f"data.dir: no CIFAR-{classes} in {folder}; put {archives} (from https://www.cs.toronto.edu/~kriz/cifar.html) "
        "there, packed or unpacked, and name the folder by --config.data.dir=DIR"
    )


@lru_cache(maxsize=1)
def cifar(classes: int, dir: str = "") -> Dataset:
    """CIFAR-10 or CIFAR-100: 50,000 + 10,000 colour images of 32 x 32.

    Args:
      classes: 10 or 100.
      dir: folder of the archive, or of its unpacked files; "" is ~/data.

    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    folder = epath.Path(dir or "~/data").expanduser()
    (train, inside), (test, _) = (_split(folder, classes, part) for part in (0, 1))
    return Dataset(train, test, MEAN, STD, "crop_flip", f"CIFAR-{classes} ({inside}) in {shown(folder)}")
