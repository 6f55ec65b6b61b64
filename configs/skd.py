"""SKD (Yuan et al. 2023), our reading: softening and learning simplifier in front of KD's loss.

python launch/train.py --config=configs/skd.py:resnet32x4,resnet8x4 --workdir=runs/skd --config.data.dir=DIR
The literal reading: --config.student.refine.skd.bound=None --config.student.refine.skd.normalize=False
--config.student.refine.skd.rate=1. No figure of the paper is available to us.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """SKD; in front of KD where there is no other loss on logits."""
    host = {"ce": recipes.member("ce", weight=0.1), "kd": recipes.member("kd", weight=0.9)}
    return recipes.Part(refine={"skd": recipes.member("skd")}, host=host)


def get_config(arg: str = ""):
    """Teacher, then student by SKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("skd", pair, part(pair))
