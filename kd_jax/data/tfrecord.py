"""Records of a tfrecord file, every checksum verified, without TensorFlow.

A record is its length (8 bytes), the length's checksum (4), its content, the content's checksum (4).
"""

import struct
from collections.abc import Iterator

from etils import epath

from kd_jax.typing import InputError


def records(path: epath.Path) -> Iterator[bytes]:
    """The records of a file in order.

    Raises:
      InputError: a truncated file, or a checksum that does not match.
    """
    left = epath.Path(path).stat().length
    with path.open("rb") as file:
        while left:
            head = file.read(12)
            length = int.from_bytes(head[:8], "little") if len(head) == 12 else left
            left -= 16 + length
            if left < 0:
                raise InputError(f"{path}: a truncated or damaged tfrecord file")
            content = file.read(length)
            if head[8:] != checksum(head[:8]) or file.read(4) != checksum(content):
                raise InputError(f"{path}: a damaged tfrecord file, a checksum does not match")
            yield content


def checksum(data: bytes) -> bytes:
    """The CRC-32C of `data`, masked, as it stands in tfrecord files."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)
