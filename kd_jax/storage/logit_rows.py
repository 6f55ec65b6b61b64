"""Rows of one teacher's logits on a disk, each at a place of its own, shared by all runs that want the same ones.

A file holds `count` records of one size: K values and a checksum. The checksum covers the key of the store, the number
of the row and its values, and a record that was never written is a hole of zeros, whose checksum is wrong. So a row is
there if its checksum is right, and nothing else says so. There is no index that could be behind, no lock and nothing
to publish: of two runs that write a row at once both write the same bytes, and what a kill, a full disk or a damaged
disk leaves of a row is not there.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
from etils import epath

from kd_jax.storage import files
from kd_jax.typing import InputError

DTYPES = ("float32", "float16")
HEADER = "header.json"
_CHUNK = 2**16  # records that `scan` looks at together
_SPREAD = 0x9E3779B1  # odd: 2**32 rows in order get as many numbers, none near the next one's


class LogitRows:
    """The rows of a store: a file beside `header.json`, which says what the rows are.

    count: rows that the file has room for. columns: K.
    """

    def __init__(self, folder: epath.Path, name: str, *, key: dict, count: int, columns: int):
        """Open the file, and create it where there is none.

        Args:
          folder: of the store, see `folder_of`.
          name: of the file in it.
          key: of the store; with other values no row of the file is there.
          count, columns: of the rows.

        Raises:
          StorageError: it cannot be opened or created.
        """
        self.path, self.count, self.columns = folder / name, count, columns
        self.dtype = np.dtype(key["dtype"])
        self._record = np.dtype([("row", self.dtype, (columns,)), ("checksum", "<u4")])
        self._seed = google_crc32c.value(f"{_text(key)}{name}{count}".encode())
        size = count * self._record.itemsize
        with files.writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)  # no bytes are taken yet
            # read through memory, written by pwrite: on a full disk a write to memory would end the process
            self._map = mmap.mmap(self._file, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._records = np.frombuffer(self._map, self._record)

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of these numbers (B,): (B, K), and (B,) bool, which of them are there."""
        records = self._records[numbers]  # a copy: what is checked is what is used
        return records["row"], records["checksum"] == self._checksums(numbers, records["row"])

    def write(self, numbers: np.ndarray, rows: np.ndarray) -> None:
        """Write rows (B, K) of the store's type under their numbers (B,).

        Raises:
          StorageError: they cannot be written.
        """
        records, size = np.empty(len(numbers), self._record), self._record.itemsize
        records["row"], records["checksum"] = rows, self._checksums(numbers, rows)
        with files.writing(self.path):
            for number, record in zip(numbers.tolist(), records, strict=True):
                if os.pwrite(self._file, record.tobytes(), number * size) < size:
                    raise OSError("no room for a whole row")

    def scan(self) -> Iterator[tuple[np.ndarray, int]]:
        """Look at every row: the numbers of those that are there, and how many are damaged, part by part."""
        for first in range(0, self.count, _CHUNK):
            checksums = self._records["checksum"][first : first + _CHUNK]
            written = first + np.flatnonzero(checksums)
            there = self.read(written)[1]
            yield written[there], int(np.sum(~there))

    @property
    def bytes(self) -> int:
        """What the file takes on the disk."""
        return os.fstat(self._file).st_blocks * 512

    @property
    def largest_size(self) -> int:
        """What the file takes once every row is there."""
        return self.count * self._record.itemsize

    def close(self) -> None:
        """Close the file."""
        self._records = None
        self._map.close()
        os.close(self._file)

    def _checksums(self, numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Of rows (B, K) under their numbers (B,): CRC-32C, which notices every wrong byte, and added to it what
        differs from row to row and from store to store. Never 0: that is what a hole holds."""
        content, size = rows.tobytes(), self.columns * self.dtype.itemsize
        crcs = [google_crc32c.value(content[first : first + size]) for first in range(0, len(content), size)]
        places = np.uint32(self._seed) + numbers.astype(np.uint32) * np.uint32(_SPREAD)
        checksums = np.array(crcs, np.uint32) + places
        return np.where(checksums == 0, np.uint32(1), checksums)


def folder_of(cache: epath.Path, teacher: str, key: dict) -> epath.Path:
    """The folder of a store: named by its teacher and the sha256 of its key.

    Args:
      cache: the folder of all stores.
      teacher: the teacher's name, for a person who looks.
      key: of the store, as JSON has it.
    """
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in teacher)[:60]
    return cache / f"{plain}-{hashlib.sha256(_text(key).encode()).hexdigest()[:16]}"


def write_header(folder: epath.Path, header: dict) -> None:
    """Say what the rows in a folder are: `key`, and what a person or `headers` wants to know. No row depends on it; two
    runs may write it at once."""
    files.write_json(folder / HEADER, header, shared=True)


def headers(cache: epath.Path) -> dict[epath.Path, dict | None]:
    """Folder -> header of every store; None where it is damaged: the next run that wants the store writes it again.

    Raises:
      InputError: no such folder.
    """
    if not cache.is_dir():
        raise InputError(f"config.teacher_cache: no folder {cache}")
    return {path.parent: _header(path) for path in sorted(cache.glob(f"*/{HEADER}"))}


def _header(path: epath.Path) -> dict | None:
    try:
        header = json.loads(path.read_bytes())
        return header if {"teacher", "columns", "rows", "key"} <= header.keys() else None
    except (ValueError, AttributeError):
        return None


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
