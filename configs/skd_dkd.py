"""SKD in front of DKD's loss: the refiner and the criterion do not know of each other.

python launch/train.py --config=configs/skd_dkd.py:resnet32x4,resnet8x4 --workdir=runs/skd_dkd --config.data.dir=DIR
"""

from configs import compose


def get_config(arg: str = ""):
    """As configs/compose.py:skd+dkd."""
    return compose.get_config(f"skd+dkd,{arg}")
