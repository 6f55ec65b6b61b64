"""Rows that are there if their checksum says so, whoever wrote them and whatever became of them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from kd_jax.storage.files import StorageError
from kd_jax.storage.logit_rows import LogitRows, folder_of, headers, write_header
from tests.conftest import ROOT

KEY = {"dtype": "float32", "teacher": "a"}
COUNT, COLUMNS = 500, 7

WRITER = """
import sys, numpy as np
from etils import epath
from kd_jax.storage.logit_rows import LogitRows
rows = LogitRows(epath.Path(sys.argv[1]), "train", key={"dtype": "float32", "teacher": "a"}, count=500, columns=7)
content = np.arange(3500, dtype=np.float32).reshape(500, 7)
for seed in range(20):
    for part in np.split(np.random.default_rng(seed).permutation(500), 10):
        values, there = rows.read(part)
        assert (values[there] == content[part[there]]).all()
        rows.write(part, content[part])
assert rows.read(np.arange(500))[1].all()
"""


def opened(folder, key=KEY, name="train"):
    return LogitRows(epath.Path(folder), name, key=key, count=COUNT, columns=COLUMNS)


def content(numbers):
    return np.stack([np.full(COLUMNS, n, np.float32) for n in numbers])


def test_what_was_written_is_there_and_nothing_else(tmp_path):
    rows, numbers = opened(tmp_path), np.array([499, 3, 0])
    assert not rows.read(np.arange(COUNT))[1].any()
    rows.write(numbers, content(numbers))
    values, there = opened(tmp_path).read(np.arange(COUNT))  # another reader of the same file
    assert np.flatnonzero(there).tolist() == [0, 3, 499]
    np.testing.assert_array_equal(values[numbers], content(numbers))
    assert [(numbers.tolist(), damaged) for numbers, damaged in rows.scan()] == [([0, 3, 499], 0)]
    rows.write(np.array([3]), np.zeros((1, COLUMNS), np.float32))  # a row of zeros is no hole
    assert rows.read(np.array([3, 4]))[1].tolist() == [True, False]
    assert rows.largest_size == COUNT * (COLUMNS + 1) * 4 and rows.bytes <= 16384


@pytest.mark.parametrize("key, name", [({**KEY, "teacher": "b"}, "train"), (KEY, "test")])
def test_rows_of_another_store_or_file_are_not_there(tmp_path, key, name):
    opened(tmp_path).write(np.arange(COUNT), content(range(COUNT)))
    os.link(tmp_path / "train", tmp_path / "other")
    os.replace(tmp_path / "other", tmp_path / name)
    assert not opened(tmp_path, key, name).read(np.arange(COUNT))[1].any()
    assert opened(tmp_path).read(np.arange(COUNT))[1].all()


def test_a_row_in_the_place_of_another_is_not_there(tmp_path):
    opened(tmp_path).write(np.array([1, 2]), content([1, 2]))
    raw, size = bytearray((tmp_path / "train").read_bytes()), (COLUMNS + 1) * 4
    raw[2 * size : 3 * size] = raw[size : 2 * size]
    (tmp_path / "train").write_bytes(raw)
    assert opened(tmp_path).read(np.array([1, 2]))[1].tolist() == [True, False]


def test_every_wrong_byte_is_noticed(tmp_path):
    rows, number = opened(tmp_path), np.array([5])
    rows.write(number, content([5]))
    first, size = 5 * (COLUMNS + 1) * 4, (COLUMNS + 1) * 4
    with open(tmp_path / "train", "r+b", buffering=0) as file:
        for place in range(first, first + size):
            right = os.pread(file.fileno(), 1, place)
            for wrong in (right[0] ^ 1, right[0] ^ 0x80, 0, 255):
                os.pwrite(file.fileno(), bytes([wrong]), place)
                assert rows.read(number)[1].tolist() == [bytes([wrong]) == right]
            os.pwrite(file.fileno(), right, place)
    assert rows.read(number)[1].all()


@pytest.mark.parametrize("bytes_left", [0, 3, 1000])
def test_a_file_that_was_cut_off_has_what_is_left(tmp_path, bytes_left):
    opened(tmp_path).write(np.arange(COUNT), content(range(COUNT)))
    os.truncate(tmp_path / "train", bytes_left)
    assert opened(tmp_path).read(np.arange(COUNT))[1].sum() == bytes_left // ((COLUMNS + 1) * 4)


def test_processes_that_write_the_same_rows_at_once(tmp_path):
    """Each of them reads right rows or none, and in the end all are there."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    rows = opened(tmp_path)
    monkeypatch.setattr(os, "pwrite", lambda *_: 5)
    with pytest.raises(StorageError, match=f"{tmp_path}/train: cannot be written"):
        rows.write(np.array([1]), content([1]))


def test_a_store_is_named_by_its_teacher_and_described(tmp_path):
    folder = folder_of(epath.Path(tmp_path), "python:mine:teacher", KEY)
    assert folder.name.startswith("python-mine-teacher-") and folder != folder_of(tmp_path, "a", {**KEY, "teacher": 1})
    opened(folder)
    header = {"teacher": {"name": "x", "digest": "1"}, "columns": COLUMNS, "rows": {"train": COUNT}, "key": KEY}
    write_header(folder, header)
    assert headers(epath.Path(tmp_path)) == {folder: header}
    assert sorted(path.name for path in folder.iterdir()) == ["header.json", "train"]
