"""KD (Hinton et al. 2015): 0.1 CE + 0.9 T^2 KL, T = 4.

python launch/train.py --config=configs/kd.py:resnet32x4,resnet8x4 --workdir=runs/kd --config.data.dir=DIR
Published on CIFAR-100 (mdistiller): 73.33 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """0.1 CE + 0.9 KD."""
    return recipes.Part(terms={"ce": recipes.member("ce", weight=0.1), "kd": recipes.member("kd", weight=0.9)})


def get_config(arg: str = ""):
    """Teacher, then student by KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("kd", pair, part(pair))
