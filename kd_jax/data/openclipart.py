"""Drawings in colour: the pictures of Debian's package openclipart-png as class folders of small squares."""

import hashlib
import io
import json
import re
import subprocess
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from kd_jax.typing import InputError

FOLDER = "/usr/share/openclipart/png"
SIZE, MOST_PIXELS = 32, 1024  # a side
FEWEST, MOST = 100, 400  # pictures of a class
LEFT_OUT = ("shapes", "unsorted")  # nearly all grey; of any class
TEST = 0.2  # of every class
LARGEST = 50_000_000  # pixels of a picture


def prepare_openclipart(data_dir: str, *, source: str = "", size: int = SIZE) -> str:
    """Write the drawings as folders: DATA_DIR/train/CLASS/*.png and DATA_DIR/test/CLASS/*.png.

    A class is a folder of the package that has 100 pictures at least; of more than 400 the first 400 in the order of a
    hash are taken. Links, files that Pillow cannot read, pictures of more than 50 million pixels and those that are the
    same at 32 x 32 pixels are left out. So which pictures there are, and in which order, does not depend on `size`.
    A picture is set on white, padded to a square, and resized. A fifth of a class is for tests: pictures whose names
    differ by a number at their end, such as those of one series, stay together; others that look alike may not.

    Args:
      data_dir: the folder; DATA_DIR/about.json says what was taken, of which version of the package.
      source: where the package's pictures lie; "" is where Debian puts them.
      size: pixels a side.

    Returns:
      Lines to print: what there is and how to use it.

    Raises:
      InputError: no pictures there; a folder that holds something else, or that cannot be written; a size
        outside 1 to 1024.
    """
    if not 1 <= size <= MOST_PIXELS:
        raise InputError(f"--size={size}: pixels a side, 1 to {MOST_PIXELS}")
    home, out = Path(source or FOLDER), Path(data_dir).expanduser()
    if not home.is_dir():
        raise InputError(f"{home}: no such folder; apt-get install openclipart-png (Debian), or give --source=DIR")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--data_dir={data_dir}: is not empty; name a new folder")
    classes = {folder.name: _pictures(folder, size) for folder in sorted(home.iterdir()) if folder.is_dir()}
    classes = {name: taken for name, taken in classes.items() if len(taken) >= FEWEST and name not in LEFT_OUT}
    if not classes:
        raise InputError(f"{home}: no class folder with {FEWEST} pictures in it")
    counts = {}
    for name, taken in classes.items():
        parts = _split(sorted(taken, key=_order)[:MOST])
        counts[name] = {part: len(names) for part, names in parts.items()}
        for part, names in parts.items():
            folder = out / part / name
            _make(folder)
            for each in names:
                (folder / f"{each}.png").write_bytes(taken[each])
    about = {"package": "openclipart-png", "version": _version(), "size": size, "classes": counts}
    (out / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    sizes = [sum(count[part] for count in counts.values()) for part in ("train", "test")]
    return (
        f"{sizes[0]:,} training and {sizes[1]:,} test pictures of {len(counts)} classes in {out}: {', '.join(counts)}\n"
        f"use it by --config.data.name=folder:{out}"
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as e:
        raise InputError(f"--data_dir: {folder} cannot be written ({e.strerror})") from e


def _pictures(folder: Path, size: int) -> dict[str, bytes]:
    """Name -> PNG, `size` pixels a side, of the distinct pictures below a folder."""
    pictures, there = {}, set()
    for path in sorted(folder.rglob("*.png")):
        if path.is_symlink():
            continue
        image = _read(path)
        if image is None:
            continue
        digest = hashlib.sha256(_resized(image, SIZE).tobytes()).digest()
        if digest not in there:
            there.add(digest)
            name = "_".join(path.relative_to(folder).with_suffix("").parts)
            pictures[name] = _png(_resized(image, size))
    return pictures


def _read(path: Path) -> Image.Image | None:
    """A picture on white, padded to a square; None of a file that is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                if image.width * image.height > LARGEST:
                    return None
                image = image.convert("RGBA")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow says of a broken PNG
            return None
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.convert("RGB")


def _resized(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BOX)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _split(names: Iterable[str]) -> dict[str, list[str]]:
    """The parts of a class; series stay together."""
    names = list(names)
    series: dict[str, list[str]] = {}
    for name in names:
        series.setdefault(re.sub(r"_?\d+_?$", "", name), []).append(name)
    parts = {"train": [], "test": []}
    for group in _in_order(series):
        part = "test" if len(parts["test"]) + len(group) <= TEST * len(names) else "train"
        parts[part] += group
    return parts


def _in_order(series: dict[str, list[str]]) -> Iterator[list[str]]:
    for name in sorted(series, key=_order):
        yield series[name]


def _version() -> str:
    """Of the package; "unknown" where it is not installed by Debian's tools."""
    try:
        command = ["dpkg-query", "--show", "--showformat=${Version}", "openclipart-png"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
