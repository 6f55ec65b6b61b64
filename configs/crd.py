"""CRD (Tian et al. 2020): CE + 0.8 CRD, a contrast of student and teacher over a memory of the training set.

python launch/train.py --config=configs/crd.py:resnet32x4,resnet8x4 --workdir=runs/crd --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 75.51 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + CRD."""
    terms = {"ce": recipes.member("ce"), "crd": recipes.member("crd")}
    return recipes.Part(terms=terms, changes=pairs.batch(pair, 256))


def get_config(arg: str = ""):
    """Teacher, then student by CRD."""
    pair = recipes.argument(arg)
    return recipes.distillation("crd", pair, part(pair))
