"""FCFD (Liu et al. 2023): CE + KD, of mixed networks too + the maps on their way, T and the maps' weight by pair.

python launch/train.py --config=configs/fcfd.py:resnet32x4,resnet8x4 --workdir=runs/fcfd --config.data.dir=DIR
Published on CIFAR-100 (EA-KD's table): 76.62, with Nesterov momentum and a teacher that normalises by the batch, which
are not here. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and FCFD."""
    temperature, map_weight = pairs.of(pairs.FCFD, pair, (1.0, 0.02) if pair.large else (4.0, 5.0))
    how = {"temperature": temperature, "map_weight": map_weight, "ramp_epochs": 5 if pair.large else 20}
    how["mixed_weight"] = 0.2 if pair.student.lower() == "wrn_16_2" else 1.0
    return recipes.Part(terms={"ce": recipes.member("ce"), "fcfd": recipes.member("fcfd", **how)})


def get_config(arg: str = ""):
    """Teacher, then student by FCFD."""
    pair = recipes.argument(arg)
    return recipes.distillation("fcfd", pair, part(pair))
