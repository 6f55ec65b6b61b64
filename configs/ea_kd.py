"""EA-KD (Su et al. 2025): 0.1 CE + 0.9 KD with examples weighed by entropy, T = 4; on ImageNet 1 and 0.5, T = 1.

python launch/train.py --config=configs/ea_kd.py:resnet32x4,resnet8x4 --workdir=runs/ea_kd --config.data.dir=DIR
Published on CIFAR-100 (as reported, not read by us): 75.46, from code with --config.student.terms.ea_kd.bound=classes.
Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and EA-KD."""
    large = {"weight": 0.5, "temperature": 1.0, "entropy_temperature": 2.0}
    ea_kd = recipes.member("ea_kd", **(large if pair.large else {"weight": 0.9}))
    return recipes.Part(terms={"ce": recipes.member("ce", weight=1.0 if pair.large else 0.1), "ea_kd": ea_kd})


def get_config(arg: str = ""):
    """Teacher, then student by EA-KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("ea_kd", pair, part(pair))
