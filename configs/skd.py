"""SKD (Yuan et al. 2023), our reading: softening and learning simplifier in front of KD's loss.

python launch/train.py --config=configs/skd.py:resnet32x4,resnet8x4 --workdir=runs/skd --config.data.dir=DIR
The literal reading: --config.student.refine.skd.bound=None --config.student.refine.skd.normalize=False
--config.student.refine.skd.rate=1. On ImageNet T = 1, as KD has it: our choice. No figure of the paper is available to
us.
"""

from configs import kd
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """SKD; in front of KD where there is no other loss on logits."""
    skd = recipes.member("skd", temperature=1.0 if pair.large else 4.0)
    return recipes.Part(refine={"skd": skd}, host=kd.part(pair).terms)


def get_config(arg: str = ""):
    """Teacher, then student by SKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("skd", pair, part(pair))
