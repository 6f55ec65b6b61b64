"""SFTN from a trained teacher: a plain teacher, 60 epochs of it with branches of the student, then KD from that one.

python launch/train.py --config=configs/sftn_finetune.py:resnet56,resnet20 --workdir=runs/finetune --config.data.dir=DIR
A teacher that is there already: --config.teacher.weights=FILE.pth. As reported (not read by us) this comes close to the
whole recipe. The epochs are the reported ones; rate and milestones are our choice: a fifth of the teacher's rate, x 0.1
at 30 and 45. How large the branches are: --config.sftn.terms.sftn_branches.student=NAME, best equal to the student's,
as reported.
"""

from configs import kd, sftn
from kd_jax import recipes


def get_config(arg: str = ""):
    """Three phases: teacher, sftn, student."""
    pair = recipes.argument(arg)
    plain = {"ce": recipes.member("ce")}
    teacher = recipes.phase(pair.teacher, terms=plain)
    tuned = recipes.phase(pair.teacher, terms={**plain, **sftn.part(pair).teacher_terms}, lr=teacher.optim.lr / 5)
    tuned.init.student = "phase:teacher"
    tuned.epochs, tuned.schedule.milestones = 60, (30, 45)
    student = recipes.phase(pair.student, terms=kd.part(pair).terms, teacher="phase:sftn")
    phases = {"teacher": teacher, "sftn": tuned, "student": student}
    return recipes.recipe("sftn_finetune", smoke=pair.smoke, **phases)
