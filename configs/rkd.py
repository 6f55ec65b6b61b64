"""RKD (Park et al. 2019): CE + 25 distances of pairs + 50 angles of triplets, on pooled features.

python launch/train.py --config=configs/rkd.py:resnet32x4,resnet8x4 --workdir=runs/rkd --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 71.90 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + RKD."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "rkd": recipes.member("rkd")})


def get_config(arg: str = ""):
    """Teacher, then student by RKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("rkd", pair, part(pair))
