"""KD (Hinton et al. 2015): 0.1 CE + 0.9 T^2 KL, T = 4; on ImageNet 0.5 and 0.5, T = 1.

python launch/train.py --config=configs/kd.py:resnet32x4,resnet8x4 --workdir=runs/kd --config.data.dir=DIR
Published on CIFAR-100 (mdistiller): 73.33 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """0.1 CE + 0.9 KD; on ImageNet as mdistiller has it."""
    ce, kd, temperature = (0.5, 0.5, 1.0) if pair.large else (0.1, 0.9, None)
    kd = recipes.member("kd", weight=kd, temperature=temperature)
    return recipes.Part(terms={"ce": recipes.member("ce", weight=ce), "kd": kd})


def get_config(arg: str = ""):
    """Teacher, then student by KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("kd", pair, part(pair))
