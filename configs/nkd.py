"""NKD (Yang et al. 2023): CE + NKD, gamma = 3.5 and T = 3; on ImageNet 1.5 and 1.

python launch/train.py --config=configs/nkd.py:resnet32x4,resnet8x4 --workdir=runs/nkd --config.data.dir=DIR
Their values for CIFAR-100 are of ResNet34 and ResNet18; for other pairs they are our choice. Not yet repeated by us: no
GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and NKD."""
    how = {"gamma": 1.5, "temperature": 1.0} if pair.large else {"gamma": 3.5, "temperature": 3.0}
    return recipes.Part(terms={"ce": recipes.member("ce"), "nkd": recipes.member("nkd", **how)})


def get_config(arg: str = ""):
    """Teacher, then student by NKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("nkd", pair, part(pair))
