"""WTTM (Zheng and Yang 2024): CE + WTTM, gamma and weight by pair.

python launch/train.py --config=configs/wttm.py:resnet32x4,resnet8x4 --workdir=runs/wttm --config.data.dir=DIR
Published on CIFAR-100 (their table): 76.06 (deviation 0.27). Not yet repeated by us: no GPU run. The paper's gamma and
weight for vision transformers are not given: there those of ResNet34 and ResNet18 are our choice.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and WTTM with the pair's gamma and weight."""
    gamma, _, weight = pairs.ttm(pair)
    return recipes.Part(terms={"ce": recipes.member("ce"), "wttm": recipes.member("wttm", weight=weight, gamma=gamma)})


def get_config(arg: str = ""):
    """Teacher, then student by WTTM."""
    pair = recipes.argument(arg)
    return recipes.distillation("wttm", pair, part(pair))
