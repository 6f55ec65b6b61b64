"""DOT (Zhao et al. 2023): KD in which the gradient of distillation has more momentum than the task's.

python launch/train.py --config=configs/dot.py:resnet32x4,resnet8x4 --workdir=runs/dot --config.data.dir=DIR
Published on CIFAR-100 (DOT's README): 75.12 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from configs import kd
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """DOT's optimiser; with KD where there is no other loss."""
    delta = 0.09 if pair.large else 0.075  # mdistiller's configs
    return recipes.Part(host=kd.part(pair).terms, changes={"optim.name": "dot", "optim.delta": delta})


def get_config(arg: str = ""):
    """Teacher, then student by KD under DOT."""
    pair = recipes.argument(arg)
    return recipes.distillation("dot", pair, part(pair))
