"""SKD on the logits and SoKD on the features, at once.

python launch/train.py --config=configs/skd_sokd.py:resnet32x4,resnet8x4 --workdir=runs/skd_sokd --config.data.dir=DIR
"""

from configs import sokd_fitnet
from kd_jax import recipes


def get_config(arg: str = ""):
    """Teacher, then student by SKD + SoKD + FitNet."""
    terms = {
        "ce": recipes.member("ce", weight=0.1),
        "kd": recipes.member("kd", weight=0.9),
        "fitnet": recipes.member("fitnet", weight=1000.0, depth=3),
    }
    refine = {"skd": recipes.member("skd"), **sokd_fitnet.refiners()}
    return recipes.distillation("skd_sokd", recipes.argument(arg), terms=terms, refine=refine)
