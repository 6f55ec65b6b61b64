"""Whether reading images or computing with them binds: ImageNet's training input, against decoding alone.

Images/s a core of array_record, JPEG, random resized crop, mirrored half of the time, batches. Against decoding
alone: the same records, read by the same workers and decoded, the pixels thrown away; by the decoder that the input
uses, and by Pillow, as other loaders decode. Medians of --rounds interleaved rounds, in one run; the goal is a
ratio of at least 0.85. 0 workers: one thread of this process, in seconds of its CPU time; otherwise in seconds of
the clock, which say little where workers and others share the cores. The images are made: structure under noise, as
many bytes as ImageNet's have on average."""

import io
import os
import statistics
import tempfile
import time
from typing import NamedTuple

from record import Goal, Measured, Table, at_least

COUNT = 96  # different images
GOAL = 0.85
DECODERS = ("decoded", "Pillow")


class Decoded(NamedTuple):
    """A view that decodes the image and gives nothing of it away."""

    decoder: str  # "" is Pillow without a copy of the pixels

    def __call__(self, encoded, seed, epoch, index):
        import numpy as np
        from PIL import Image

        from kd_jax.data.decoders import DECODERS

        if self.decoder:
            return DECODERS[self.decoder].decode(encoded)[:1, :1]
        Image.open(encoded.open()).load()
        return np.zeros((1, 1, 3), np.uint8)


def photographs(width: int, height: int, kilobytes: float) -> list[bytes]:
    """JPEGs of quality 90 whose mean size is near what is asked for."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)

    def photograph(noise: float) -> bytes:
        small = rng.integers(0, 256, (max(height // 25, 1), max(width // 25, 1), 3), np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.float32)
        pixels = np.clip(smooth + rng.normal(0, noise, smooth.shape), 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=90)
        return out.getvalue()

    low, high = 0.0, 100.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if len(photograph(middle)) < kilobytes * 1e3 else (low, middle)
    return [photograph(low) for _ in range(COUNT)]


def sources(jpegs: list[bytes], folder: str, crop: int, decoder: str) -> dict:
    """The set as streams read it: augmented, and only decoded."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    from kd_jax.data import crops
    from kd_jax.data.unloaded import Part, Records

    path = os.path.join(folder, "made.array_record")
    writer = ArrayRecordWriter(path, "group_size:1")
    for i, jpeg in enumerate(jpegs):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(jpeg)
        example.features.feature["label"].int64_list.value.append(i % 10)
        writer.write(example.SerializeToString())
    writer.close()
    files = Records((path,), path, len(jpegs))
    decoders = zip(DECODERS, (decoder, ""), strict=True)
    alone = {name: Part(files, Decoded(one), 10, (1, 1, 3)) for name, one in decoders}
    return {"augmented": Part(files, crops.RandomCrop(crop, decoder), 10, (crop, crop, 3)), **alone}


def rates(parts: dict, workers: int, batch: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of every part, round by round."""
    clock = time.perf_counter if workers else time.process_time
    from kd_jax.data.streaming import Stream, TrainPlan

    plan = TrainPlan(0, COUNT, batch)
    streams = {name: Stream(part, plan, workers=workers, ahead=1) for name, part in parts.items()}
    heads, steps, measured = dict.fromkeys(streams, 0), 4 * max(workers, 1), {name: [] for name in streams}
    waiting = 4 * max(workers, 1)  # more batches than can be lying ready
    try:
        for _ in range(rounds + 1):
            for name, stream in streams.items():
                for step in range(heads[name], heads[name] + waiting):
                    stream.at(step)
                heads[name] += waiting + steps
                start = clock()
                for step in range(heads[name] - steps, heads[name]):
                    stream.at(step)
                measured[name].append(steps * batch / (clock() - start))
                time.sleep(0.5)  # lets what runs ahead fill up before the other one is measured
    finally:
        for stream in streams.values():
            stream.close()
    return {name: each[1:] for name, each in measured.items()}  # the first round warms up


def flags(parser) -> None:
    parser.add_argument("--workers", type=counts, default=[0, 1, 2], help="0,1,2: processes, comma-separated")
    sizes = {"batch": 32, "rounds": 5, "width": 500, "height": 375, "kilobytes": 110, "crop": 224}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--decoder", choices=("pillow", "fast"), default="pillow", help="as config.data.decoder")
    parser.add_argument(
        "--step_images_per_second", type=float, help="what a training step consumes, to tell what binds"
    )


def counts(text: str) -> list[int]:
    """Worker counts, comma-separated."""
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 0:
        raise ValueError
    return numbers


def check(flags, parser) -> None:
    at_least(parser, flags, batch=1, rounds=1, width=8, height=8, kilobytes=1, crop=1, step_images_per_second=1)
    if flags.batch > COUNT:
        parser.error(f"--batch={flags.batch}: must be at most {COUNT}")


def measure(flags) -> Measured:
    jpegs = photographs(flags.width, flags.height, flags.kilobytes)
    size, cores = statistics.mean(map(len, jpegs)) / 1e3, len(os.sched_getaffinity(0))
    rows, most, best = [], dict.fromkeys(DECODERS, 0.0), 0.0
    with tempfile.TemporaryDirectory() as folder:
        parts = sources(jpegs, folder, flags.crop, flags.decoder)
        for workers in flags.workers:
            measured = rates(parts, workers, flags.batch, flags.rounds)
            each = {name: statistics.median(some) / max(workers, 1) for name, some in measured.items()}
            best, row = max(best, each["augmented"]), [workers, each["augmented"]]
            for name in DECODERS:
                slower = statistics.median(b / a for a, b in zip(measured["augmented"], measured[name], strict=True))
                most[name] = max(most[name], slower)
                row += [each[name], 1 / slower]
            rows.append(row)
    columns = ("workers", "augmented, images/s a core", "decoded", "ratio", "decoded by Pillow", "ratio to that")
    title = (
        f"{COUNT} JPEGs of {flags.width} x {flags.height} pixels, {size:.0f} kB on average, to {flags.crop} x "
        f"{flags.crop}, decoder {flags.decoder}; batches of {flags.batch}, {flags.rounds} rounds"
    )
    goals = [
        Goal(f"decoding alone by {what} / augmented input, images/s", 1 / GOAL, most[name])
        for name, what in zip(DECODERS, ("the same decoder", "Pillow"), strict=True)
    ]
    notes = []
    if flags.step_images_per_second:
        needed = flags.step_images_per_second / best
        binds = "compute" if needed <= cores else "input"
        step = f"a step consumes {flags.step_images_per_second:g} images/s"
        notes = [f"{step}: {needed:.1f} cores do for it, {binds} binds on {cores} cores"]
    return Measured([Table(title, columns, rows)], goals, notes)
