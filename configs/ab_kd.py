"""ABKD (Wang et al. 2025): CE + 32 times the alpha-beta divergence (0.8, 0.3) at T = 4.

python launch/train.py --config=configs/ab_kd.py:resnet32x4,resnet8x4 --workdir=runs/ab_kd --config.data.dir=DIR
The values are theirs for resnet56 and resnet20; for other pairs, and on ImageNet, they are our choice. Not yet repeated
by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and ABKD."""
    del pair
    return recipes.Part(terms={"ce": recipes.member("ce"), "ab_kd": recipes.member("ab_kd")})


def get_config(arg: str = ""):
    """Teacher, then student by ABKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("ab_kd", pair, part(pair))
