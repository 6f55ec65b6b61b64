"""SKD on the logits and SoKD on the features, at once.

python launch/train.py --config=configs/skd_sokd.py:resnet32x4,resnet8x4 --workdir=runs/skd_sokd --config.data.dir=DIR
"""

from configs import compose


def get_config(arg: str = ""):
    """As configs/compose.py:skd+sokd."""
    return compose.get_config(f"skd+sokd,{arg}")
