"""Make a PyTorch checkpoint a teacher.

python launch/import_weights.py --source=FILE.pth --model=NAME --num_classes=N --out=DIR
"""

from absl import flags

from kd_jax.tools import cli

SOURCE = flags.DEFINE_string("source", None, "a .pth (mdistiller, RepDistiller, ...) or .safetensors file")
MODEL = flags.DEFINE_string("model", None, "name of the network; launch/list.py shows them")
NUM_CLASSES = flags.DEFINE_integer("num_classes", None, "classes of its classifier", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "folder to write; checkpoint:OUT is a teacher then")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "pixels a side of its images", lower_bound=1)
MEAN = flags.DEFINE_list("mean", [], "of its images in [0, 1], one number a channel; CIFAR-100's if not given")
STD = flags.DEFINE_list("std", [], "likewise")
PREFIX = flags.DEFINE_string(
    "prefix", None, "what stands before the network's names in the file, such as teacher; needed where it holds several"
)
PARTIAL = flags.DEFINE_bool("partial", False, "take what fits and leave the rest at its initial value")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace a checkpoint in the folder")


def run() -> None:
    from kd_jax.interop import exchange

    network, loaded = exchange.import_weights(
        SOURCE.value,
        model=MODEL.value,
        num_classes=NUM_CLASSES.value,
        out=OUT.value,
        image_size=IMAGE_SIZE.value,
        mean=cli.numbers("mean", MEAN.value),
        std=cli.numbers("std", STD.value),
        prefix=PREFIX.value,
        partial=PARTIAL.value,
        overwrite=OVERWRITE.value,
    )
    for line in exchange.describe_import(network, loaded):
        print(line)
    print(f"a teacher now: --config.student.teacher=checkpoint:{OUT.value}")


if __name__ == "__main__":
    cli.main(run, required=("source", "model", "num_classes", "out"))
