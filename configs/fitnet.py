"""FitNet (Romero et al. 2015): CE + 100 mean squared error of one stage's maps, the student's by a regressor.

python launch/train.py --config=configs/fitnet.py:resnet32x4,resnet8x4 --workdir=runs/fitnet --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 73.50 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + FitNet."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "fitnet": recipes.member("fitnet")})


def get_config(arg: str = ""):
    """Teacher, then student by FitNet."""
    pair = recipes.argument(arg)
    return recipes.distillation("fitnet", pair, part(pair))
