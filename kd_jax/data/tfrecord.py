"""Records of a tfrecord file, every checksum verified, without TensorFlow.

A record is its length (8 bytes), the length's checksum (4), its content, the content's checksum (4).
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from kd_jax.typing import InputError

_POLYNOMIAL = np.uint32(0x82F63B78)  # Castagnoli's, reflected
_CHUNK = 2**25  # bytes whose checksums are computed side by side


class _Record(NamedTuple):
    """head: the length as it stands in the file. The sums are masked."""

    head: bytes
    head_sum: int
    content: bytes
    content_sum: int


def records(path: epath.Path) -> Iterator[bytes]:
    """The records of a file in order.

    Raises:
      InputError: a truncated file, or a checksum that does not match.
    """
    for chunk in _chunks(_raw(path)):
        heads, head_sums, contents, content_sums = zip(*chunk, strict=True)
        for data, sums in ((heads, head_sums), (contents, content_sums)):
            if not np.array_equal(masked(crc32c(data)), np.array(sums, np.uint32)):
                raise InputError(f"{path}: a damaged tfrecord file, a checksum does not match")
        yield from contents


def crc32c(data: Sequence[bytes]) -> np.ndarray:
    """(N,) uint32: the CRC-32C of each of N byte strings."""
    lengths = np.array([len(d) for d in data])
    columns = np.zeros((lengths.max(), len(data)), np.uint8)
    for i, content in enumerate(data):
        columns[: len(content), i] = np.frombuffer(content, np.uint8)
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ _POLYNOMIAL, table >> 1)
    crc = np.full(len(data), 0xFFFFFFFF, np.uint32)
    for j, column in enumerate(columns):
        crc = np.where(lengths > j, table[(crc ^ column) & 0xFF] ^ (crc >> 8), crc)
    return ~crc


def masked(crc: np.ndarray) -> np.ndarray:
    """Checksums as tfrecord files store them."""
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def _raw(path: epath.Path) -> Iterator[_Record]:
    left = epath.Path(path).stat().length
    with path.open("rb") as file:
        while left:
            head = file.read(12)
            length, head_sum = struct.unpack("<QI", head) if len(head) == 12 else (left, 0)
            left -= 16 + length
            if left < 0:
                raise InputError(f"{path}: a truncated or damaged tfrecord file")
            yield _Record(head[:8], head_sum, file.read(length), *struct.unpack("<I", file.read(4)))


def _chunks(found: Iterator[_Record]) -> Iterator[list[_Record]]:
    """Lists of records that fit in _CHUNK bytes when they are filled up to the longest."""
    chunk, longest = [], 0
    for record in found:
        longest = max(longest, len(record.content))
        if chunk and (len(chunk) + 1) * longest > _CHUNK:
            yield chunk
            chunk, longest = [], len(record.content)
        chunk.append(record)
    if chunk:
        yield chunk
