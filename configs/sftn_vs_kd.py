"""A standard teacher and an SFTN teacher; the same student from each, by KD and by SKD: one table.

python launch/train.py --config=configs/sftn_vs_kd.py:TEACHER,STUDENT --workdir=runs/sftn_vs_kd --config.data.dir=DIR
"""

from configs import sftn
from kd_jax import recipes


def get_config(arg: str = ""):
    """Six phases: teacher, sftn, and of each the students kd and skd."""
    pair = recipes.argument(arg)
    ce, kd, plain = recipes.member("ce", weight=0.1), recipes.member("kd", weight=0.9), recipes.member("ce")
    phases = {
        "teacher": recipes.phase(pair.teacher, terms={"ce": plain}),
        "sftn": recipes.phase(pair.teacher, terms={"ce": plain, **sftn.part(pair).teacher_terms}),
    }
    for name in ("teacher", "sftn"):
        before = "" if name == "teacher" else "sftn_"
        taught = {"terms": {"ce": ce, "kd": kd}, "teacher": f"phase:{name}"}
        phases[f"{before}kd"] = recipes.phase(pair.student, **taught)
        phases[f"{before}skd"] = recipes.phase(pair.student, **taught, refine={"skd": recipes.member("skd")})
    return recipes.recipe("sftn_vs_kd", smoke=pair.smoke, **phases)
