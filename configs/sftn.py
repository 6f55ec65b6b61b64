"""SFTN (Park et al. 2021): a teacher trained with branches of the student, then KD from it.

python launch/train.py --config=configs/sftn.py:resnet32x4,resnet8x4 --workdir=runs/sftn --config.data.dir=DIR
Student not known yet: --config.teacher.terms.sftn_branches.student=resnet8x4 trains the teacher with another
family than the one that is distilled. No figure of the paper was available to us for re-reading.
"""

from configs.pairs import sftn_stages
from kd_jax import recipes


def teacher_terms(arg: recipes.Argument) -> dict:
    """The teacher's own CE and the branches of the student."""
    branches = recipes.member("sftn_branches", student=arg.student, stages=sftn_stages(arg.teacher, arg.student))
    return {"ce": recipes.member("ce"), "sftn_branches": branches}


def get_config(arg: str = ""):
    """SFTN teacher, then student by KD."""
    parsed = recipes.argument(arg)
    terms = {"ce": recipes.member("ce", weight=0.1), "kd": recipes.member("kd", weight=0.9)}
    return recipes.distillation("sftn", parsed, terms=terms, teacher_terms=teacher_terms(parsed))
