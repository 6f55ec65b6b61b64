"""KDSVD (Lee et al. 2018): CE + relations between the singular vectors of neighbouring stages.

python launch/train.py --config=configs/kdsvd.py:resnet32x4,resnet8x4 --workdir=runs/kdsvd --config.data.dir=DIR
No published figure was at hand for this pair. Not yet run by us on a GPU.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + KDSVD."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "kdsvd": recipes.member("kdsvd")})


def get_config(arg: str = ""):
    """Teacher, then student by KDSVD."""
    pair = recipes.argument(arg)
    return recipes.distillation("kdsvd", pair, part(pair))
