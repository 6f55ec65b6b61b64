"""CRD + KD as published: CE + 1.0 KD + 0.8 CRD.

python launch/train.py --config=configs/crd_kd.py:resnet32x4,resnet8x4 --workdir=runs/crd_kd --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 75.46 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import crd
from kd_jax import recipes


def get_config(arg: str = ""):
    """Teacher, then student by CRD and KD."""
    pair = recipes.argument(arg)
    kd = recipes.Part(terms={"kd": recipes.member("kd", weight=1.0)})
    return recipes.distillation("crd_kd", pair, crd.part(pair), kd)
