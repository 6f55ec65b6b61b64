"""CC (Peng et al. 2019): CE + 0.02 correlation of neighbouring examples, both pooled features embedded.

python launch/train.py --config=configs/cc.py:resnet32x4,resnet8x4 --workdir=runs/cc --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 72.97 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + CC."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "cc": recipes.member("cc")})


def get_config(arg: str = ""):
    """Teacher, then student by CC."""
    pair = recipes.argument(arg)
    return recipes.distillation("cc", pair, part(pair))
