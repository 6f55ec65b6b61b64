"""SoKD (Shen et al. 2024) in front of FitNet: the teacher's features refined by DAFA, compared where DAM looks.

python launch/train.py --config=configs/sokd_fitnet.py:resnet32x4,resnet8x4 --workdir=runs/sokd --config.data.dir=DIR
The weights 1000 and 1000 and the epochs of search, 20 or by pair, are those of a public working copy of the method's
code. On ImageNet that has its ReviewKD variant only: 5 epochs of search and batches of 256 are from there, the weights
ours.
"""

from configs import pairs
from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """DAM and DAFA; in front of FitNet where no other term reads the teacher's maps."""
    dafa = recipes.member("dafa", search_epochs=pairs.of(pairs.SOKD_SEARCH, pair, 5 if pair.large else 20))
    refine = {"dam": recipes.member("dam", weight=1000.0), "dafa": dafa}
    host = {"ce": recipes.member("ce"), "fitnet": recipes.member("fitnet", weight=1000.0, depth=3)}
    return recipes.Part(refine=refine, host=host, changes=pairs.batch(pair, 256))


def get_config(arg: str = ""):
    """Teacher, then student by SoKD + FitNet."""
    pair = recipes.argument(arg)
    return recipes.distillation("sokd_fitnet", pair, part(pair))
