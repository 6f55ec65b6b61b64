"""DKD (Zhao et al. 2022): CE + DKD ramped over 20 epochs, alpha = 1, beta by pair, T = 4; on ImageNet 1 epoch, T = 1.

python launch/train.py --config=configs/dkd.py:resnet32x4,resnet8x4 --workdir=runs/dkd --config.data.dir=DIR
Published on CIFAR-100 (mdistiller): 76.32 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and DKD with the pair's beta."""
    dkd = recipes.member("dkd", **pairs.dkd(pair))
    return recipes.Part(terms={"ce": recipes.member("ce"), "dkd": dkd})


def get_config(arg: str = ""):
    """Teacher, then student by DKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("dkd", pair, part(pair))
