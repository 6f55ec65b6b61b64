"""DeepKD (Huang et al. 2025): KD in two terms with a momentum each, the teacher's first classes first.

python launch/train.py --config=configs/deepkd.py:resnet32x4,resnet8x4 --workdir=runs/deepkd --config.data.dir=DIR
0.5 CE + 0.5, T = 4 and delta = 0.075 are its authors' for resnet32x4 and resnet8x4; of other pairs delta is in their
configs, weights are our choice. On DKD: --config.student.terms.deepkd.beta=8. Its classes that count grow by our
reading. Not yet repeated by us: no GPU run.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE, DeepKD and its optimiser; vision transformers keep their own."""
    deepkd = recipes.member("deepkd", weight=0.5, temperature=1.0 if pair.large else None)
    terms = {"ce": recipes.member("ce", weight=0.5), "deepkd": deepkd}
    changes = {"optim.name": "deepkd", "optim.delta": pairs.of(pairs.DEEPKD, pair, 0.075)}
    return recipes.Part(terms=terms, changes={} if pair.tokens else changes)


def get_config(arg: str = ""):
    """Teacher, then student by DeepKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("deepkd", pair, part(pair))
