"""TTM (Zheng and Yang 2024): CE + TTM, gamma and weight by pair.

python launch/train.py --config=configs/ttm.py:resnet32x4,resnet8x4 --workdir=runs/ttm --config.data.dir=DIR
Published on CIFAR-100 (their table): 76.17 (deviation 0.28). Not yet repeated by us: no GPU run. On ImageNet and for
vision transformers the weight is our choice: WTTM's.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and TTM with the pair's gamma and weight."""
    gamma, weight, _ = pairs.ttm(pair)
    return recipes.Part(terms={"ce": recipes.member("ce"), "ttm": recipes.member("ttm", weight=weight, gamma=gamma)})


def get_config(arg: str = ""):
    """Teacher, then student by TTM."""
    pair = recipes.argument(arg)
    return recipes.distillation("ttm", pair, part(pair))
