"""AT (Zagoruyko, Komodakis 2017): CE + 1000 squared differences of attention maps over all stages, p = 2.

python launch/train.py --config=configs/at.py:resnet32x4,resnet8x4 --workdir=runs/at --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 73.44 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + AT."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "at": recipes.member("at")})


def get_config(arg: str = ""):
    """Teacher, then student by AT."""
    pair = recipes.argument(arg)
    return recipes.distillation("at", pair, part(pair))
