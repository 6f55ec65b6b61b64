"""A tfrecord copy of a TFDS set as array_record, without TensorFlow."""

import json
import os
import shutil

from etils import epath

from kd_jax.data.tfds import FORMAT, INFO, describe, formats
from kd_jax.data.tfrecord import records
from kd_jax.typing import InputError


def convert(source: epath.Path, target: epath.Path) -> epath.Path:
    """Write the tfrecord files of a prepared set as array_record. Its description is written last, so that half a copy
    does not count as a set.

    Args:
      source: folder of the set's version, with dataset_info.json.
      target: the same folder, which then holds both formats, or a new one.

    Returns:
      target.

    Raises:
      InputError: another format, missing or damaged files.
    """
    import tensorflow_datasets

    if formats(source)[0] != "tfrecord":
        raise InputError(f"--source={source}: is {formats(source)[0]}, accepted is tfrecord")
    splits = tensorflow_datasets.builder_from_directory(source).info.splits
    target.mkdir(parents=True, exist_ok=True)
    for split in splits.values():
        for path, length in zip(map(epath.Path, split.filepaths), split.shard_lengths, strict=True):
            if not path.exists():
                raise InputError(f"{path}: missing, though {source / INFO} names it")
            count = _shard(path, target / path.name.replace(".tfrecord-", f".{FORMAT}-"))
            if count != length:
                raise InputError(f"{path}: {count} records, but {source / INFO} says {length}")
    info = describe(source)
    if source == target:
        info["alternativeFileFormats"] = [*info.get("alternativeFileFormats", []), FORMAT]
    else:
        info["fileFormat"] = FORMAT
        for path in source.iterdir():
            if ".tfrecord-" not in path.name and path.name != INFO:
                shutil.copy(path, target / path.name)
    fresh = target / f"{INFO}.new"
    fresh.write_text(json.dumps(info, indent=2))
    fresh.replace(target / INFO)
    return target


def _shard(path: epath.Path, target: epath.Path) -> int:
    """Copy the records of one file, and count them."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer, count = ArrayRecordWriter(os.fspath(target), "group_size:1"), 0
    for record in records(path):
        writer.write(record)
        count += 1
    writer.close()
    return count
