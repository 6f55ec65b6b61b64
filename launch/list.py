"""What there is: python launch/list.py [--only=models|methods|configs|data|combinations]"""

from pathlib import Path

from absl import flags

from kd_jax.tools import cli

ONLY = flags.DEFINE_string("only", "", "models, methods, configs, data or combinations; by default the first four")
NUM_CLASSES = flags.DEFINE_integer("num_classes", 100, "classes of the models", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32, "pixels a side of the image that models are measured with", lower_bound=1
)
PAIR = flags.DEFINE_string("pair", "resnet32x4,resnet8x4", "TEACHER,STUDENT of --only=combinations")


def run() -> None:
    from kd_jax.tools.listing import listing

    configs = Path(__file__).resolve().parents[1] / "configs"
    size = {"num_classes": NUM_CLASSES.value, "image_size": IMAGE_SIZE.value}
    print(listing(ONLY.value, **size, pair=PAIR.value, configs=configs))


if __name__ == "__main__":
    cli.main(run)
