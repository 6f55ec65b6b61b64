"""LSKD (Sun et al. 2024): logits standardised on both sides, in front of 9 KD, T = 2, both by pair, and 0.1 CE, on
ImageNet 1.

python launch/train.py --config=configs/lskd.py:resnet32x4,resnet8x4 --workdir=runs/lskd --config.data.dir=DIR
Published on CIFAR-100 (LSKD's README): 76.62 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """LSKD; in front of KD where there is no other loss on logits. Beside DKD, what its authors take for that."""
    temperature, weight = pairs.of(pairs.LSKD_KD, pair, (2.0, 9.0))
    host = {"ce": recipes.member("ce", weight=1.0 if pair.large else 0.1), "kd": recipes.member("kd", weight=weight)}
    # on ImageNet DKD's own beta stays, and its weight of 9 is our choice
    of_dkd = dict(zip(("temperature", "weight", "beta"), pairs.of(pairs.LSKD_DKD, pair, (2.0, 9.0)), strict=False))
    retunes = {"dkd": {"lskd": {"temperature": of_dkd.pop("temperature")}, "dkd": of_dkd}}
    return recipes.Part(refine={"lskd": recipes.member("lskd", temperature=temperature)}, host=host, retunes=retunes)


def get_config(arg: str = ""):
    """Teacher, then student by logit standardisation + KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("lskd", pair, part(pair))
