"""Drawings in colour: what is taken, on what ground, and which part it is in."""

import json

import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError, data
from kd_jax.data import openclipart
from kd_jax.data.prepare import prepare
from tests.commands import launch


@pytest.fixture
def drawings(tmp_path):
    """A class of 130 and one of 99 pictures, links, a copy, a broken file, `shapes`."""
    rng, home = np.random.default_rng(0), tmp_path / "png"
    for name, count in (("animals", 130), ("tools", 99), ("shapes", 120)):
        (home / name / "below").mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (12, 20, 4), np.uint8)
            path = home / name / ("below" if i % 2 else ".") / f"thing{i // 10}_{i % 10:02}.png"
            Image.fromarray(pixels).save(path)
    (home / "tools" / "link.png").symlink_to(home / "animals" / "thing0_00.png")
    (home / "tools" / "copy.png").write_bytes((home / "tools" / "thing0_00.png").read_bytes())
    (home / "tools" / "broken.png").write_bytes(b"\x89PNG, and nothing more")
    return home


def test_class_folders(drawings, tmp_path):
    said = openclipart.prepare_openclipart(str(tmp_path / "out"), source=str(drawings))
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert set(about["classes"]) == {"animals"} and "of 1 classes" in said  # tools has 99 pictures and no more
    counts = about["classes"]["animals"]
    assert sum(counts.values()) == 130 and 0.1 * 130 <= counts["test"] <= 0.2 * 130
    parts = {part: {p.name for p in (tmp_path / "out" / part / "animals").iterdir()} for part in ("train", "test")}
    assert {part: len(names) for part, names in parts.items()} == counts
    series = [{name.rpartition("_")[0] for name in names} for names in parts.values()]
    assert not series[0] & series[1]  # stay together
    again = openclipart.prepare_openclipart(str(tmp_path / "again"), source=str(drawings))
    assert again.split(" in ")[0] == said.split(" in ")[0]
    for part, names in parts.items():
        assert {p.name for p in (tmp_path / "again" / part / "animals").iterdir()} == names


def test_another_size_has_the_same_pictures_in_the_same_order(drawings, tmp_path):
    """Also where two drawings are one at 32 x 32 pixels alone."""
    pixels = np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8)
    Image.fromarray(pixels).save(drawings / "animals" / "block_a.png")
    pixels[0, [0, 2]] = pixels[0, [2, 0]]  # in one block of 3 x 3
    Image.fromarray(pixels).save(drawings / "animals" / "block_b.png")
    small, large = ({"out": tmp_path / str(size), "size": size} for size in (32, 48))
    for each in (small, large):
        openclipart.prepare_openclipart(str(each["out"]), source=str(drawings), size=each["size"])
        each["names"] = [p.relative_to(each["out"]) for p in sorted(each["out"].rglob("*.png"))]
    assert small["names"] == large["names"] and len([p for p in small["names"] if p.name.startswith("block")]) == 1
    dataset = data.load(f"folder:{large['out']}")
    assert dataset.train.shape == (48, 48, 3) and json.loads((large["out"] / "about.json").read_text())["size"] == 48


def test_at_most_400(drawings, tmp_path, monkeypatch):
    monkeypatch.setattr(openclipart, "MOST", 110)
    openclipart.prepare_openclipart(str(tmp_path / "out"), source=str(drawings))
    dataset = data.load(f"folder:{tmp_path / 'out'}")
    assert len(dataset.train) + len(dataset.test) == 110 and dataset.train.shape == (32, 32, 3)


def test_on_white_in_the_middle(drawings, tmp_path):
    """What is transparent is white; a wide picture has white above and below, and is averaged, not sampled."""
    path = tmp_path / "one.png"
    pixels = np.zeros((64, 128, 4), np.uint8)
    pixels[:, ::2] = (200, 100, 0, 255)
    Image.fromarray(pixels).save(path)
    image = np.asarray(openclipart._resized(openclipart._read(path), 32))
    assert (image[:8] == 255).all() and (image[-8:] == 255).all()
    np.testing.assert_allclose(image[8:24], np.broadcast_to([227.5, 177.5, 127.5], (16, 32, 3)), atol=1)


def test_what_is_refused(drawings, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    flags = {"source": str(drawings), "data_dir": str(tmp_path / "new")}
    for changes, message in (
        ({"source": "/nowhere"}, "/nowhere: no such folder; apt-get install openclipart-png"),
        ({"data_dir": str(tmp_path / "full")}, "is not empty; name a new folder"),
        ({"data_dir": ""}, "--data_dir: missing"),
        ({"source": str(tmp_path / "full")}, "no class folder with 100 pictures"),
        ({"size": 0}, "--size=0: pixels a side, 1 to 1024"),
        ({"size": 1025}, "--size=1025: pixels a side, 1 to 1024"),
    ):
        with pytest.raises(InputError, match=message):
            prepare("openclipart", **{**flags, **changes})
    with pytest.raises(InputError, match="--size=64: of --dataset=openclipart only"):
        prepare("mnist", data_dir=str(tmp_path / "new"), size=64)
    done = launch("prepare_data", "--dataset=openclipart")
    assert done.returncode == 2 and done.stderr == "error: --data_dir: missing; name a new folder for the pictures\n"
