"""SKD (Yuan et al. 2023), our reading: the teacher softened alone, a learning simplifier, and KD's loss, its student at
temperature 1.

python launch/train.py --config=configs/skd.py:resnet32x4,resnet8x4 --workdir=runs/skd --config.data.dir=DIR
Softening and weight are those that TTM, whose loss this is without the simplifier, has for the pair; for others 4 and
20, our choice. The other reading, KD's temperature for both sides:
--config.student.refine.skd.student_temperature=None --config.student.refine.skd.temperature=4
--config.student.terms.kd.weight=0.9 --config.student.terms.ce.weight=0.1. No figure of the paper is available to us.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument, softer: float = 1.0, **keywords) -> recipes.Part:
    """SKD; in front of KD where there is no other loss on logits. DKD behind it, whose T^2 is 1, has a weight of our
    choice: 2 gives the other classes 2 beta = 16, near KD's 20; 6 has collapsed (docs/evidence.md). softer: the
    temperature as a multiple. keywords: of the refiner."""
    gamma, weight, _ = pairs.ttm(pair) if pair.large else pairs.of(pairs.TTM, pair, (0.25, 20.0, None))
    how = {"temperature": softer / gamma, "simplifier": "batch" if pair.large else "classes"} | keywords
    host = {"ce": recipes.member("ce"), "kd": recipes.member("kd", weight=weight)}
    retunes = {"dkd": {"dkd": {"weight": 2.0}}}
    return recipes.Part(refine={"skd": recipes.member("skd", **how)}, host=host, retunes=retunes)


def get_config(arg: str = ""):
    """Teacher, then student by SKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("skd", pair, part(pair))
