"""RLD (Sun et al. 2024): CE + RLD ramped over 20 epochs, alpha = 1, beta = 4, T = 4; ImageNet: 1, T = 1, beta by pair.
Behind LSKD times 9, and both temperatures that of LSKD.

python launch/train.py --config=configs/rld.py:resnet32x4,resnet8x4 --workdir=runs/rld --config.data.dir=DIR
Of the pairs of CIFAR-100 the values of vgg13 and vgg8 were found (beta 8 and one temperature, its repository's README).
For others alpha and beta are what the paper calls the default (as reported, not read by us); its code's beta is 8. Not
yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and RLD."""
    if not pair.large:
        rld = recipes.member("rld", **pairs.of(pairs.RLD, pair, {}), warmup_epochs=20)
        retunes = {"lskd": {"rld": {"weight": 9.0, "confidence_temperature": None}}}
        return recipes.Part(terms={"ce": recipes.member("ce"), "rld": rld}, retunes=retunes)
    rld = recipes.member("rld", beta=pairs.of(pairs.RLD_LARGE, pair, 0.5), warmup_epochs=1, temperature=1.0)
    return recipes.Part(terms={"ce": recipes.member("ce"), "rld": rld})


def get_config(arg: str = ""):
    """Teacher, then student by RLD."""
    pair = recipes.argument(arg)
    return recipes.distillation("rld", pair, part(pair))
