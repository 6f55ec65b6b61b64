"""SKD in front of DKD's loss: the refiner and the criterion do not know of each other.

python launch/train.py --config=configs/skd_dkd.py:resnet32x4,resnet8x4 --workdir=runs/skd_dkd --config.data.dir=DIR
"""

from configs import dkd
from kd_jax import recipes


def get_config(arg: str = ""):
    """Teacher, then student by SKD + DKD."""
    parsed = recipes.argument(arg)
    return recipes.distillation("skd_dkd", parsed, terms=dkd.terms(parsed), refine={"skd": recipes.member("skd")})
