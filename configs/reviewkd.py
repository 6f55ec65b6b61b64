"""ReviewKD (Chen et al. 2021): CE + deeper stages fused into shallower ones, ramped over 20 epochs (on ImageNet 1),
weight by pair.

python launch/train.py --config=configs/reviewkd.py:resnet32x4,resnet8x4 --workdir=runs/reviewkd --config.data.dir=DIR
Published on CIFAR-100 (DKD's paper, from memory): 75.63 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and ReviewKD with the pair's weight."""
    ramp = {"warmup_epochs": 1, "preact": True} if pair.large else {"warmup_epochs": 20}
    weight, width = pairs.of(pairs.REVIEWKD_WEIGHT, pair, 1.0), pairs.of(pairs.REVIEWKD_WIDTH, pair, 512)
    review = recipes.member("reviewkd", weight=weight, max_width=width, **ramp)
    return recipes.Part(terms={"ce": recipes.member("ce"), "reviewkd": review}, changes=pairs.batch(pair, 256))


def get_config(arg: str = ""):
    """Teacher, then student by ReviewKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("reviewkd", pair, part(pair))
