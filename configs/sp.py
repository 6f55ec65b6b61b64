"""SP (Tung, Mori 2019): CE + 3000 squared differences of the examples' similarities at the last stage.

python launch/train.py --config=configs/sp.py:resnet32x4,resnet8x4 --workdir=runs/sp --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 72.94 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + SP."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "sp": recipes.member("sp")})


def get_config(arg: str = ""):
    """Teacher, then student by SP."""
    pair = recipes.argument(arg)
    return recipes.distillation("sp", pair, part(pair))
