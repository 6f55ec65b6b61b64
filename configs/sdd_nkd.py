"""SDD (Wei et al. 2024) around NKD: CE + NKD on the image and on regions of it, ramped over 20 epochs.

python launch/train.py --config=configs/sdd_nkd.py:resnet32x4,resnet8x4 --workdir=runs/sdd_nkd --config.data.dir=DIR
Their figures are of an NKD with a slip (kd_jax.methods.sdd), with other gamma and T. Not yet repeated by us: no GPU
run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and NKD on regions, gamma and T as NKD has them."""
    how = {"gamma": 1.5, "temperature": 1.0} if pair.large else {"gamma": 3.5, "temperature": 3.0, "warmup_epochs": 20}
    sdd = recipes.member("sdd_nkd", scales=pairs.sdd_scales(pair), **how)
    return recipes.Part(terms={"ce": recipes.member("ce"), "sdd_nkd": sdd})


def get_config(arg: str = ""):
    """Teacher, then student by SDD + NKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("sdd_nkd", pair, part(pair))
