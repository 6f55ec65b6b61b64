"""OFD (Heo et al. 2019): CE + 0.001 (on ImageNet 0.0001) partial distance of maps before their ReLU, above a margin.

python launch/train.py --config=configs/ofd.py:resnet32x4,resnet8x4 --workdir=runs/ofd --config.data.dir=DIR
Published on CIFAR-100 (DKD's paper, from memory): 74.95 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + OFD."""
    ofd = recipes.member("ofd", weight=1e-4 if pair.large else 1e-3)
    return recipes.Part(terms={"ce": recipes.member("ce"), "ofd": ofd}, changes=pairs.batch(pair, 128))


def get_config(arg: str = ""):
    """Teacher, then student by OFD."""
    pair = recipes.argument(arg)
    return recipes.distillation("ofd", pair, part(pair))
