"""NormKD (Chi et al. 2023): logits in the spread of each example, in front of 0.9 KD, scale 2, and 0.1 CE; ImageNet 1.

python launch/train.py --config=configs/normkd.py:resnet32x4,resnet8x4 --workdir=runs/normkd --config.data.dir=DIR
Its authors publish no table that we could read. Not yet repeated by us: no GPU run.
"""

from configs import kd, pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """NormKD; in front of KD where there is no other loss on logits. Beside DKD, what its authors take for that."""
    scale, alpha, beta = pairs.normkd(pair)
    retunes = {"dkd": {"dkd": {"alpha": alpha, "beta": beta}, "normkd": {"scale": scale}}}
    normkd = recipes.member("normkd", scale=1.0 if pair.large else 2.0)
    return recipes.Part(refine={"normkd": normkd}, host=kd.part(pair).terms, retunes=retunes)


def get_config(arg: str = ""):
    """Teacher, then student by NormKD + KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("normkd", pair, part(pair))
