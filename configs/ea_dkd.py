"""EA-KD (Su et al. 2025) on DKD: CE + DKD with examples weighed by entropy, ramped over 20 epochs, beta as DKD has it.

python launch/train.py --config=configs/ea_dkd.py:resnet32x4,resnet8x4 --workdir=runs/ea_dkd --config.data.dir=DIR
Their values are of resnet32x4 and resnet8x4, and of ResNet34 and ResNet18; beta of other pairs is our choice.
Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and EA-DKD with DKD's beta for the pair."""
    ea_dkd = recipes.member("ea_dkd", entropy_temperature=2.0 if pair.large else 3.0, **pairs.dkd(pair))
    return recipes.Part(terms={"ce": recipes.member("ce"), "ea_dkd": ea_dkd})


def get_config(arg: str = ""):
    """Teacher, then student by EA-KD on DKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("ea_dkd", pair, part(pair))
