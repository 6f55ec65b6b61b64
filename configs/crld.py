"""CRLD (Zhang et al. 2024): CE on two views, KD within and across them where the teacher is sure, T = 4, on
ImageNet 1.

python launch/train.py --config=configs/crld.py:resnet32x4,resnet8x4 --workdir=runs/crld --config.data.dir=DIR
Published on CIFAR-100 (as reported, not read by us): 77.60. A second, stronger view and its own CE are part of that:
compare with MLLD. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE on each view and CRLD."""
    ce, how = (2.0, {"ce_weight": 2.0, "temperature": 1.0}) if pair.large else (1.0, {})
    return recipes.Part(terms={"ce": recipes.member("ce", weight=ce), "crld": recipes.member("crld", **how)})


def get_config(arg: str = ""):
    """Teacher, then student by CRLD."""
    pair = recipes.argument(arg)
    return recipes.distillation("crld", pair, part(pair))
