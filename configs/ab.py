"""AB (Heo et al. 2018): the student's activation boundaries are made the teacher's; then it trains on CE alone.

python launch/train.py --config=configs/ab.py:resnet32x4,resnet8x4 --workdir=runs/ab --config.data.dir=DIR
Phases: teacher, pretrain (30 epochs of `ab`), student. Published on CIFAR-100 (RepDistiller): 73.17 from a teacher of
79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """AB before, CE after."""
    before = recipes.before(pair.student, terms={"ab": recipes.member("ab")}, teacher="phase:teacher")
    return recipes.Part(
        terms={"ce": recipes.member("ce")}, before={"pretrain": before}, changes={"init.student": "phase:pretrain"}
    )


def get_config(arg: str = ""):
    """Teacher, then the student by AB, then by CE."""
    pair = recipes.argument(arg)
    return recipes.distillation("ab", pair, part(pair))
