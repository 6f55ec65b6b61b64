"""MLLD (Jin et al. 2023): logits compared on three levels, at five temperatures, on a weak and a strong view.

python launch/train.py --config=configs/mlld.py:resnet32x4,resnet8x4 --workdir=runs/mlld --config.data.dir=DIR
On ImageNet KD's weights and T = 1, 100 epochs and a rate by pair, as its authors have it; ours for transformers.
Beside LSKD (configs/compose.py:lskd+mlld,...) the settings are those of LSKD's authors: 480 epochs, the KD part 9.
Published on CIFAR-100: 77.08 from a teacher of 79.42, with LSKD 78.28. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """0.1 CE on each view + 0.9 MLLD; with LSKD in front what its authors take."""
    if pair.large:
        mlld = recipes.member("mlld", weight=0.5, ce_weight=0.5, temperature=1.0)
        lr = pairs.of(pairs.MLLD_LARGE, pair, None)
        changes = {} if lr is None else {"optim.lr": lr}
        return recipes.Part(terms={"ce": recipes.member("ce", weight=0.5), "mlld": mlld}, changes=changes)
    lr, epochs = pairs.of(pairs.MLLD, pair, (0.025, 240))
    terms = {"ce": recipes.member("ce", weight=0.1), "mlld": recipes.member("mlld")}
    beside_lr, beside_epochs, weight = pairs.of(pairs.LSKD_MLLD, pair, (0.025, 480, 9.0))
    beside = {"mlld": {"weight": weight}, "lskd": {"temperature": 2.0}}
    beside[""] = {"optim.lr": beside_lr, "epochs": beside_epochs}
    return recipes.Part(terms=terms, retunes={"lskd": beside}, changes={"optim.lr": lr, "epochs": epochs})


def get_config(arg: str = ""):
    """Teacher, then student by MLLD."""
    pair = recipes.argument(arg)
    return recipes.distillation("mlld", pair, part(pair))
