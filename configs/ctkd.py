"""CTKD (Li et al. 2023): KD at a global temperature that is learned against the student.

python launch/train.py --config=configs/ctkd.py:resnet32x4,resnet8x4 --workdir=runs/ctkd --config.data.dir=DIR
On ImageNet the curriculum takes 5 epochs, as its authors have it; KD's weights are as KD has them there: our choice.
Published on CIFAR-100 (CTKD's README): 73.39 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import kd
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CTKD; in front of KD where there is no other loss on logits."""
    ctkd = recipes.member("ctkd", epochs=5 if pair.large else 10)
    return recipes.Part(refine={"ctkd": ctkd}, host=kd.part(pair).terms)


def get_config(arg: str = ""):
    """Teacher, then student by CTKD + KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("ctkd", pair, part(pair))
