"""The main job in small, on data that ships with the package: a teacher, then one student three times:
alone, by KD and by SKD, from the same start and on the same batches.

python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart
About two minutes on two CPU cores.
"""

from kd_jax import recipes


def get_config(arg: str = ""):
    """Four phases on scikit-learn's digits."""
    pair = recipes.argument(arg, default=("resnet20", "resnet8"))
    kd = {"ce": recipes.member("ce", weight=0.1), "kd": recipes.member("kd", weight=0.9)}
    plain = {"ce": recipes.member("ce")}
    # the student is compared at temperature 1: nothing is multiplied by T^2 = 16, so the weight is larger
    skd = {**plain, "kd": recipes.member("kd", weight=20.0)}
    phases = {
        "teacher": recipes.phase(pair.teacher, terms=plain),
        # the teacher is only compared with: no term reads it, so it costs nothing in training
        "alone": recipes.phase(pair.student, terms=plain, teacher="phase:teacher"),
        "kd": recipes.phase(pair.student, terms=kd, teacher="phase:teacher"),
        "skd": recipes.phase(pair.student, terms=skd, refine={"skd": recipes.member("skd")}, teacher="phase:teacher"),
    }
    for phase in phases.values():
        phase.epochs = 30
        phase.schedule.name = "cosine"
    config = recipes.recipe("quickstart", smoke=pair.smoke, data="synthetic" if pair.smoke else "digits", **phases)
    config.checkpoint.every = 0 if pair.smoke else 220
    config.eval.every = 1 if pair.smoke else 5
    return config
