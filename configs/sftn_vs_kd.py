"""A standard teacher and an SFTN teacher; the same student from each, by KD and by SKD: one table.

python launch/train.py --config=configs/sftn_vs_kd.py:TEACHER,STUDENT --workdir=runs/sftn_vs_kd --config.data.dir=DIR
"""

from configs import kd, sftn, skd
from kd_jax import recipes


def get_config(arg: str = ""):
    """Six phases: teacher, sftn, and of each the students kd and skd."""
    pair = recipes.argument(arg)
    plain = recipes.member("ce")
    phases = {
        "teacher": recipes.phase(pair.teacher, terms={"ce": plain}),
        "sftn": recipes.phase(pair.teacher, terms={"ce": plain, **sftn.part(pair).teacher_terms}),
    }
    for name in ("teacher", "sftn"):
        for label, method in (("kd", kd), ("skd", skd)):
            student = method.get_config(arg).student
            student.teacher = f"phase:{name}"
            phases[label if name == "teacher" else f"sftn_{label}"] = student
    return recipes.recipe("sftn_vs_kd", smoke=pair.smoke, **phases)
