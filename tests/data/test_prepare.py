"""From tfrecord copies and archives to array_record, and the command that does it."""

import importlib.util
import json
import re
import shlex
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest

from kd_jax import InputError, data
from kd_jax.data import prepare, tfrecord
from kd_jax.data.convert import convert
from tests.conftest import ROOT
from tests.data import tiny_tfds as tiny

# tf.io.TFRecordWriter of tensorflow-cpu 2.21 wrote this: b"abc" and b""
BY_TENSORFLOW = bytes.fromhex("0300000000000000b099490e6162636e57f121000000000000000029039807d8ea82a2")


def test_tfrecord_is_read_as_tensorflow_writes_it(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(BY_TENSORFLOW)
    assert list(tfrecord.records(file)) == [b"abc", b""]
    tiny.write_records(file, [b"abc", b""], "tfrecord")
    assert file.read_bytes() == BY_TENSORFLOW
    crc = 0xE3069283  # of these bytes, by the definition of CRC-32C
    assert tfrecord.checksum(b"123456789") == struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path):
    file = tmp_path / "x"
    for i in range(len(BY_TENSORFLOW)):
        file.write_bytes(BY_TENSORFLOW[:i] + bytes([BY_TENSORFLOW[i] ^ 16]) + BY_TENSORFLOW[i + 1 :])
        with pytest.raises(InputError, match=f"^{re.escape(str(file))}: a (truncated or )?damaged tfrecord file"):
            list(tfrecord.records(file))
        file.write_bytes(BY_TENSORFLOW[:i])
        if i not in (0, 19):  # the ends of records: told by their count
            with pytest.raises(InputError, match="a truncated or damaged tfrecord file"):
                list(tfrecord.records(file))


def same(one, two):
    for a, b in ((one.train, two.train), (one.test, two.test)):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


@pytest.fixture
def copies(tmp_path, rng):
    """One set as array_record in a/, as tfrecord in t/; its true content."""
    truth = tiny.write_tiny(tmp_path / "a", rng, shards=2, config="small")[1]
    tiny.write_tiny(tmp_path / "t", np.random.default_rng(0), shards=2, config="small", form="tfrecord")
    return tmp_path, truth


@pytest.mark.parametrize("given", ["t", "t/tiny", "t/tiny/small", "t/tiny/small/1.0.0"])
def test_a_tfrecord_copy_is_converted(copies, given):
    home, _ = copies
    (home / "t/tiny/small/1.0.0/label.labels.txt").write_text("a\nb\nc\n")
    said = prepare.prepare("tiny", data_dir=str(home / "new"), source=str(home / given))
    assert f"in {home}/new/tiny/small/1.0.0" in said and f"data.name=tfds:tiny --config.data.dir={home}/new" in said
    same(*(data.load("tfds:tiny", dir=str(home / x)) for x in ("a", "new")))
    names = sorted(p.name for p in (home / "new/tiny/small/1.0.0").iterdir())
    assert names == sorted([p.name for p in (home / "a/tiny/small/1.0.0").iterdir()] + ["label.labels.txt"])
    again = prepare.prepare("tiny", data_dir=str(home / "new"), source=str(home / given))
    assert "is array_record already" in again


def test_in_place_by_the_command_that_training_names(copies):
    home, _ = copies
    before = {p.name: p.read_bytes() for p in (home / "t/tiny/small/1.0.0").iterdir()}
    with pytest.raises(InputError, match="convert it by: ") as e:
        data.load("tfds:tiny/small", dir=str(home / "t"))
    command = shlex.split(str(e.value).partition("convert it by: ")[2])
    assert command[0] == "python"
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "converted" in done.stdout and "tensorflow" not in done.stderr.lower()
    same(*(data.load("tfds:tiny/small", dir=str(home / x)) for x in ("a", "t")))
    for name, content in before.items():  # the copy itself is as it was
        if name != "dataset_info.json":
            assert (home / "t/tiny/small/1.0.0" / name).read_bytes() == content
            (home / "t/tiny/small/1.0.0" / name).unlink() if "tfrecord" in name else None
    same(*(data.load("tfds:tiny/small", dir=str(home / x)) for x in ("a", "t")))  # which is not needed any more


def test_a_damaged_copy_leaves_no_set(copies):
    home, _ = copies
    folder = home / "t/tiny/small/1.0.0"
    shard, info = folder / "tiny-test.tfrecord-00001-of-00002", folder / "dataset_info.json"
    whole, described = shard.read_bytes(), info.read_text()

    def message(source=folder):
        with pytest.raises(InputError) as e:
            prepare.prepare("tiny", data_dir=str(home / "new"), source=str(source))
        with pytest.raises(InputError, match="no prepared TFDS set"):
            data.load("tfds:tiny", dir=str(home / "new"))
        return str(e.value)

    shard.write_bytes(whole[:-1])
    assert message() == f"{shard}: a truncated or damaged tfrecord file"
    length = 16 + int.from_bytes(whole[:8], "little")
    shard.write_bytes(whole[:length])
    assert message() == f"{shard}: 1 records, but {info} says 3"
    shard.unlink()
    assert message() == f"{shard}: missing, though {info} names it"
    shard.write_bytes(whole)
    info.write_text(json.dumps(json.loads(described) | {"fileFormat": "riegeli"}))
    assert message() == f"--source={folder}: is riegeli, accepted is tfrecord"
    info.write_text("{")
    assert "dataset_info.json: not a description of a TFDS set" in message()
    assert message(home / "nowhere") == f"--source={home / 'nowhere'}: no such file or folder"
    info.write_text(described)
    (home / "file").write_text("")
    with pytest.raises(InputError, match=f"--data_dir={home / 'file'}: cannot be read or written"):
        prepare.prepare("tiny", data_dir=str(home / "file"), source=str(folder))


def test_a_broken_conversion_in_place_is_not_seen(copies):
    home, _ = copies
    folder = home / "t/tiny/small/1.0.0"
    (folder / "tiny-test.tfrecord-00001-of-00002").unlink()
    with pytest.raises(InputError, match="missing"):
        convert(folder, folder)
    with pytest.raises(InputError, match="is tfrecord, accepted is array_record"):
        data.load("tfds:tiny", dir=str(home / "t"))


def test_without_tensorflow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--dataset=mnist: .*: pip install 'kd_jax\[prepare\]'$"):
        prepare.prepare("mnist", data_dir=str(tmp_path))
    with pytest.raises(InputError, match="; but cifar10 needs no preparation: --config.data.name=cifar10 reads"):
        prepare.prepare("cifar10", data_dir=str(tmp_path))


class Upstream:
    """Stands for TFDS's builder where TensorFlow is installed."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = None
    url_infos = {"https://example.org/x.zip": SimpleNamespace(filename="x.zip")}

    def __init__(self, name, data_dir, file_format):
        assert file_format == "array_record"
        self.name, self.data_dir, self._data_dir_root, self.config = name, f"{data_dir}/made", data_dir, None

    def download_and_prepare(self, download_config):
        self.config = download_config
        if self.name == "broken":
            raise RuntimeError("first line\nsecond line")


@pytest.fixture
def upstream(monkeypatch):
    import tensorflow_datasets

    builders = []

    def builder(*args, **kwargs):
        builders.append(Upstream(*args, **kwargs))
        return builders[-1]

    def unreachable(url, timeout):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(tensorflow_datasets, "builder", builder)
    return builders


def test_archives_are_taken_instead_of_the_network(tmp_path, upstream):
    (tmp_path / "dl").mkdir()
    for name in ("x.zip", "y.zip"):
        (tmp_path / "dl" / name).write_text("")
    for source in ("dl", "dl/x.zip"):
        said = prepare.prepare("cifar10", data_dir=str(tmp_path), source=str(tmp_path / source))
        assert upstream[-1].config.manual_dir == str(tmp_path / "dl")
    assert (
        f"prepared {tmp_path}/made" in said and "note: cifar10 needs no preparation: --config.data.name=cifar10" in said
    )
    with pytest.raises(InputError, match="y.zip: neither a tfrecord copy nor a download of cifar10.*names: x.zip$"):
        prepare.prepare("cifar10", data_dir=str(tmp_path), source=str(tmp_path / "dl" / "y.zip"))
    with pytest.raises(InputError, match=r"--dataset=broken: TFDS could not prepare it \(first line\)$"):
        prepare.prepare("broken", data_dir=str(tmp_path), source=str(tmp_path / "dl"))


def test_no_network_fails_at_once(tmp_path, upstream, monkeypatch):
    with pytest.raises(InputError, match="https://example.org/x.zip cannot be reached .*no route.*--source=FILE$"):
        prepare.prepare("mnist", data_dir=str(tmp_path))
    assert upstream[-1].config is None  # TFDS was not asked
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    prepare.prepare("mnist", data_dir=str(tmp_path))  # downloaded already
    assert upstream[-1].config.manual_dir is None

    def refuses(url, timeout):
        raise urllib.error.HTTPError(url, 403, "no", {}, None)

    monkeypatch.setattr(urllib.request, "urlopen", refuses)
    prepare.prepare("mnist", data_dir=str(tmp_path / "other"))
    assert upstream[-1].config is not None


def test_unknown_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match="--dataset=cifar1000: Dataset cifar1000 not found.; did you mean cifar100?"):
        prepare.prepare("cifar1000", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--dataset: missing"),
        (["--dataset=x", "--source=/nowhere"], "--source=/nowhere: no such file or folder"),
        (["--dataset=x", "--dir=y"], "Unknown command line flag 'dir'"),
    ],
)
def test_the_command_refuses_in_one_line(args, message):
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "prepare_data.py"), *args], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
