"""SKD's softening alone, annealed: the teacher's temperature falls to 1 over the run. Ours, not the paper's.

python launch/train.py --config=configs/skd_annealed.py:resnet56,resnet20 --workdir=runs/annealed --config.data.dir=DIR
It starts at twice the temperature of configs/skd.py, with its weight: our choice. The same, learned by attention for
each example: --config.student.refine.skd.simplifier=degree --config.student.refine.skd.rate=1.
"""

from configs import skd
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """SKD's softening, annealed, in front of KD or of other losses on logits."""
    return skd.part(pair, softer=2.0, anneal_to=1.0, simplifier="none")


def get_config(arg: str = ""):
    """Teacher, then student by SKD, annealed and without the simplifier."""
    pair = recipes.argument(arg)
    return recipes.distillation("skd_annealed", pair, part(pair))
