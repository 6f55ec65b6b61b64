"""NST (Huang, Wang 2017): CE + 50 squared MMD between the channels' patterns of every stage.

python launch/train.py --config=configs/nst.py:resnet32x4,resnet8x4 --workdir=runs/nst --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 73.30 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + NST."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "nst": recipes.member("nst")})


def get_config(arg: str = ""):
    """Teacher, then student by NST."""
    pair = recipes.argument(arg)
    return recipes.distillation("nst", pair, part(pair))
