"""SFTN (Park et al. 2021): a teacher trained with branches of the student, then KD from it.

python launch/train.py --config=configs/sftn.py:resnet32x4,resnet8x4 --workdir=runs/sftn --config.data.dir=DIR
Student not known yet: --config.teacher.terms.sftn_branches.student=resnet8x4 trains the teacher with another
family than the one that is distilled. No figure of the paper was available to us for re-reading; on ImageNet the
teacher's phase has a plain teacher's recipe and the weights that it has on CIFAR-100: our choice.
"""

from configs import kd, pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """Branches of the student on the teacher; then KD where there is no other loss."""
    stages = pairs.of(pairs.SFTN_STAGES, pair, ())
    branches = {"sftn_branches": recipes.member("sftn_branches", student=pair.student, stages=stages)}
    return recipes.Part(teacher_terms=branches, host=kd.part(pair).terms)


def get_config(arg: str = ""):
    """Teacher, then student by SFTN + KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("sftn", pair, part(pair))
