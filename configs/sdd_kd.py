"""SDD (Wei et al. 2024) around KD: 0.1 CE + 0.9 KD on the image and on regions of it, T = 4; on ImageNet as KD.

python launch/train.py --config=configs/sdd_kd.py:resnet32x4,resnet8x4 --workdir=runs/sdd_kd --config.data.dir=DIR
Grids of 1 and 2 cells a side for networks of one kind, of 4 too for others, as published. Not yet repeated by us: no
GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and KD on regions."""
    ce, weight, temperature = (0.5, 0.5, 1.0) if pair.large else (0.1, 0.9, None)
    sdd = recipes.member("sdd_kd", weight=weight, temperature=temperature, scales=pairs.sdd_scales(pair))
    return recipes.Part(terms={"ce": recipes.member("ce", weight=ce), "sdd_kd": sdd})


def get_config(arg: str = ""):
    """Teacher, then student by SDD + KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("sdd_kd", pair, part(pair))
