"""What there is: python launch/list.py [--only=models|methods|configs|data]"""

from pathlib import Path

from absl import flags

from kd_jax import cli

ONLY = flags.DEFINE_string("only", "", "models, methods, configs or data; by default all four")
NUM_CLASSES = flags.DEFINE_integer("num_classes", 100, "classes of the models", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32, "pixels a side of the image that models are measured with", lower_bound=1
)


def run() -> None:
    from kd_jax.listing import listing

    configs = Path(__file__).resolve().parents[1] / "configs"
    print(listing(ONLY.value, num_classes=NUM_CLASSES.value, image_size=IMAGE_SIZE.value, configs=configs))


if __name__ == "__main__":
    cli.main(run)
