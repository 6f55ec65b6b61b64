"""Prepare a set for data.name=tfds:NAME: python launch/prepare_data.py --dataset=NAME --data_dir=DIR [--source=FILES]

cifar10 and cifar100 need no preparation: data.name=cifar100 reads the published archives itself.
--dataset=openclipart turns the Debian package openclipart-png into class folders of 32 x 32 pixels in DIR, or of
--size=PIXELS a side, with the same pictures in the same order.
"""

from absl import flags

from kd_jax.tools import cli

DATASET = flags.DEFINE_string("dataset", None, "NAME or NAME/CONFIG, as TFDS has it; or openclipart")
DATA_DIR = flags.DEFINE_string("data_dir", "", "TFDS's data_dir; ~/tensorflow_datasets if not given")
SOURCE = flags.DEFINE_string("source", "", "a tfrecord copy of the set, or archives downloaded by hand")
SIZE = flags.DEFINE_integer("size", None, "of openclipart: pixels a side; 32 if not given")


def run() -> None:
    from kd_jax.data import prepare

    print(prepare.prepare(DATASET.value, data_dir=DATA_DIR.value, source=SOURCE.value, size=SIZE.value))


if __name__ == "__main__":
    cli.main(run, required=("dataset",))
