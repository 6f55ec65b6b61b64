"""CAT-KD (Guo et al. 2023): CE + class activation maps; weight, size and scaling by pair.

python launch/train.py --config=configs/cat_kd.py:resnet32x4,resnet8x4 --workdir=runs/cat_kd --config.data.dir=DIR
Published on CIFAR-100 (from memory): 76.91 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and CAT-KD as for the pair."""
    cat_kd = recipes.member("cat_kd", **pairs.of(pairs.CAT_KD, pair, {}))
    return recipes.Part(terms={"ce": recipes.member("ce"), "cat_kd": cat_kd})


def get_config(arg: str = ""):
    """Teacher, then student by CAT-KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("cat_kd", pair, part(pair))
