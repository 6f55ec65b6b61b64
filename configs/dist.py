"""DIST (Huang et al. 2022): CE + 2 (1 - correlation over classes) + 2 (1 - correlation over the batch), T = 4; on
ImageNet 1.

python launch/train.py --config=configs/dist.py:resnet32x4,resnet8x4 --workdir=runs/dist --config.data.dir=DIR
Published on CIFAR-100 (DIST's README): 76.31 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + DIST."""
    dist = recipes.member("dist", temperature=1.0 if pair.large else None)
    return recipes.Part(terms={"ce": recipes.member("ce"), "dist": dist}, changes=pairs.batch(pair, 256))


def get_config(arg: str = ""):
    """Teacher, then student by DIST."""
    pair = recipes.argument(arg)
    return recipes.distillation("dist", pair, part(pair))
