"""FSP (Yim et al. 2017): flow matrices between the student's stages are made the teacher's; then CE alone.

python launch/train.py --config=configs/fsp.py:resnet56,resnet20 --workdir=runs/fsp --config.data.dir=DIR
Phases: teacher, pretrain (30 epochs of `fsp`), student. Both networks must be of the same widths. Published on
CIFAR-100 (RepDistiller): 69.95 from a teacher of 72.34. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes

DEFAULT = ("resnet56", "resnet20")


def part(pair: recipes.Argument) -> recipes.Part:
    """FSP before, CE after."""
    before = recipes.before(pair.student, terms={"fsp": recipes.member("fsp")}, teacher="phase:teacher")
    return recipes.Part(
        terms={"ce": recipes.member("ce")}, before={"pretrain": before}, changes={"init.student": "phase:pretrain"}
    )


def get_config(arg: str = ""):
    """Teacher, then the student by FSP, then by CE."""
    pair = recipes.argument(arg, default=DEFAULT)
    return recipes.distillation("fsp", pair, part(pair))
