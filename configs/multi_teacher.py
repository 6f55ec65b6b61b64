"""Several teachers: KD from their averaged logits, and from each by itself.

python launch/train.py --config=configs/multi_teacher.py:resnet56+wrn_40_2,resnet20 --workdir=runs/multi
    --config.data.dir=DIR
0.1 CE + 0.9 KD of the average; the terms kd_0, kd_1, ... see one teacher each and weigh 0 by default:
--config.student.terms.kd_1.weight=0.5. Features are read from the first teacher, or from that which a term names
(--config.student.terms.LABEL.teacher=1). The phases of the teachers are teacher_0, teacher_1, ...
"""

from configs import kd
from kd_jax import recipes

ARGUMENT = "TEACHER+TEACHER,STUDENT"  # for launch/list.py


def get_config(arg: str = ""):
    """All teachers, then the student."""
    taught_by, _, rest = (arg if recipes.words(arg)[0] else f"resnet56+wrn_40_2,resnet20,{arg}").partition(",")
    alone, phases, pairs = {}, {}, [recipes.argument(f"{name},{rest}") for name in taught_by.split("+")]
    for i, pair in enumerate(pairs):
        phases[f"teacher_{i}"] = recipes.phase(pair.teacher, terms={"ce": recipes.member("ce")})
        temperature = kd.part(pair).terms["kd"].temperature
        alone[f"kd_{i}"] = recipes.member("kd", weight=0.0, teacher=i, temperature=temperature)
    origins = ",".join(f"phase:{name}" for name in phases)
    student = recipes.phase(pair.student, terms=kd.part(pair).terms | alone, teacher=origins)
    return recipes.recipe("multi_teacher", smoke=pair.smoke, **phases, student=student)
