"""A student taught by its own average over the steps (Tarvainen and Valpola 2017); no other teacher.

python launch/train.py --config=configs/ema_teacher.py:resnet8x4 --workdir=runs/ema --config.data.dir=DIR
CE + 1.0 KD at T = 1 from an average with decay 0.999. Our choice of weights. Any phase can have one: ema=0.999 keeps
an average of its network, teacher="ema" learns from it, "phase:teacher,ema" from both.
"""

from kd_jax import recipes

ARGUMENT = "STUDENT"  # for launch/list.py


def get_config(arg: str = ""):
    """The student alone."""
    names, smoke = recipes.words(arg)
    if len(names) > 1:
        raise recipes.InputError(f"config argument {arg!r}: give STUDENT and, if wanted, smoke")
    terms = {"ce": recipes.member("ce"), "kd": recipes.member("kd", weight=1.0, temperature=1.0)}
    student = recipes.phase((names or ["resnet8x4"])[0], terms=terms, teacher="ema")
    student.ema = 0.999
    return recipes.recipe("ema_teacher", smoke=smoke, student=student)
