"""WKD-L (Lv et al. 2024): CE + the teacher's label + the transport between classes, gamma and T by pair.

python launch/train.py --config=configs/wkd_l.py:resnet32x4,resnet8x4 --workdir=runs/wkd_l --config.data.dir=DIR
Published on CIFAR-100 (its README): 76.53, with Nesterov momentum, which is not here. On ImageNet the costs come from
the rows of the teacher's classifier: our choice, in place of CKA of its logits. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and WKD-L."""
    gamma, temperature, sharpness = pairs.of(pairs.WKD_L, pair, (30.0, 2.0, 1.0) if pair.large else (600.0, 8.0, 1.0))
    how = {"gamma": gamma, "temperature": temperature, "sharpness": sharpness}
    how |= {"relation": "classifier", "decay_from": 0.0} if pair.large else {}
    wkd_l = recipes.member("wkd_l", **how)
    return recipes.Part(terms={"ce": recipes.member("ce"), "wkd_l": wkd_l})


def get_config(arg: str = ""):
    """Teacher, then student by WKD-L."""
    pair = recipes.argument(arg)
    return recipes.distillation("wkd_l", pair, part(pair))
