"""DML (Zhang et al. 2017): two networks train side by side, each on CE and on what the other predicts; no teacher.

python launch/train.py --config=configs/dml.py:resnet32x4,resnet8x4 --workdir=runs/dml --config.data.dir=DIR
The pair's first network is the peer of the second: python launch/evaluate.py --workdir=runs/dml --network=dml
measures it. Two equal ones: --config.student.terms.dml.peer=resnet8x4.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + DML."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "dml": recipes.member("dml", peer=pair.teacher)})


def get_config(arg: str = ""):
    """Student and peer."""
    pair = recipes.argument(arg)
    return recipes.distillation("dml", pair, part(pair))
