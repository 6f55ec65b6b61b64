"""WKD-F (Lv et al. 2024): CE + the Wasserstein distance of the last maps, weight, ratio and grid by pair.

python launch/train.py --config=configs/wkd_f.py:resnet32x4,resnet8x4 --workdir=runs/wkd_f --config.data.dir=DIR
Published on CIFAR-100 (its README): 76.77, with Nesterov momentum and a weight that falls along a cosine, which are
not here. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and WKD-F."""
    weight, ratio, grid = pairs.of(pairs.WKD_F, pair, (0.02, 2.0, 4) if pair.large else (0.08, 4.0, 1))
    wkd_f = recipes.member("wkd_f", weight=weight, ratio=ratio, grid=grid)
    return recipes.Part(terms={"ce": recipes.member("ce"), "wkd_f": wkd_f})


def get_config(arg: str = ""):
    """Teacher, then student by WKD-F."""
    pair = recipes.argument(arg)
    return recipes.distillation("wkd_f", pair, part(pair))
