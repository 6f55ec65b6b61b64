"""SDD (Wei et al. 2024) around DKD: CE + DKD on the image and on regions of it, ramped over 20 epochs, T = 4, beta by
pair.

python launch/train.py --config=configs/sdd_dkd.py:resnet32x4,resnet8x4 --workdir=runs/sdd_dkd --config.data.dir=DIR
Grids of 1 and 2 cells a side for networks of one kind, of 4 too for others, as published. The paper writes a ramp of
30 epochs, its code has 20. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and DKD on regions, beta as DKD has it."""
    sdd = recipes.member("sdd_dkd", scales=pairs.sdd_scales(pair), **pairs.dkd(pair))
    return recipes.Part(terms={"ce": recipes.member("ce"), "sdd_dkd": sdd})


def get_config(arg: str = ""):
    """Teacher, then student by SDD + DKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("sdd_dkd", pair, part(pair))
