"""A prepared TFDS set, written without TensorFlow in the layout that TFDS 4.9.10 with tensorflow-cpu 2.21 writes."""

import io
import json
import struct

import numpy as np
from PIL import Image

from kd_jax.data.tfrecord import checksum

FEATURES = "tensorflow_datasets.core.features."
IMAGE, LABEL = "image_feature.Image", "class_label_feature.ClassLabel"


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(out, "PNG")
    return out.getvalue()


def example(**features):
    """A serialized tf.train.Example of bytes and ints."""
    from tensorflow_datasets.proto import tf_example_pb2 as pb

    message = pb.Example()
    for name, value in features.items():
        kind = message.features.feature[name]
        kind.bytes_list.value.append(value) if isinstance(value, bytes) else kind.int64_list.value.append(value)
    return message.SerializeToString()


def image_feature(*shape, dtype="uint8"):
    value = {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype}
    return {"pythonClassName": FEATURES + IMAGE, "image": value}


def label_feature(classes):
    return {"pythonClassName": FEATURES + LABEL, "classLabel": {"numClasses": str(classes)}}


def tensor_feature(*shape, dtype="int64"):
    value = {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype, "encoding": "none"}
    return {"pythonClassName": FEATURES + "tensor_feature.Tensor", "tensor": value}


def write_records(path, records, form):
    if form == "array_record":
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return
    with path.open("wb") as file:
        for record in records:
            head = struct.pack("<Q", len(record))
            file.write(head + checksum(head) + record + checksum(record))


def write(root, splits, features, *, name="tiny", version="1.0.0", config="", form="array_record", shards=1):
    """The folder of a set.

    splits: name -> serialized examples. features: name -> its description.
    """
    folder = root / name / config / version
    folder.mkdir(parents=True)
    described = []
    for split, records in splits.items():
        parts = [records[i::shards] for i in range(shards)]
        for i, part in enumerate(parts):
            write_records(folder / f"{name}-{split}.{form}-{i:05d}-of-{shards:05d}", part, form)
        described.append({
            "name": split,
            "shardLengths": [str(len(part)) for part in parts],
            "numBytes": str(sum(map(len, records))),
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        })  # fmt: skip
    info = {"name": name, "version": version, "fileFormat": form, "splits": described, "moduleName": "made.by.tests"}
    info |= {"configName": config} if config else {}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    tree = {"pythonClassName": FEATURES + "features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(tree))
    return folder


def pictures(rng, n, shape=(8, 8, 3)):
    return rng.integers(0, 256, (n, *shape), np.uint8)


def write_tiny(root, rng, *, train=12, test=6, shape=(8, 8, 3), classes=3, tests="test", **settings):
    """A set of random images; what they are: {split: (images, labels)}."""
    truth = {s: (pictures(rng, n, shape), np.arange(n) % classes) for s, n in (("train", train), (tests, test))}
    splits = {s: [example(image=png(x), label=int(y)) for x, y in zip(*pair, strict=True)] for s, pair in truth.items()}
    return write(root, splits, {"image": image_feature(*shape), "label": label_feature(classes)}, **settings), truth
