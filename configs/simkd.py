"""SimKD (Chen et al. 2022): the student keeps the teacher's classifier and learns the map that it reads.

python launch/train.py --config=configs/simkd.py:resnet32x4,resnet8x4 --workdir=runs/simkd --config.data.dir=DIR
The student's phase trains the network "graft:STUDENT+TEACHER"; there is no CE. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """SimKD, and the network that it is for."""
    model = f"graft:{pair.student}+{pair.teacher}"
    return recipes.Part(terms={"simkd": recipes.member("simkd")}, changes={"model": model})


def get_config(arg: str = ""):
    """Teacher, then student by SimKD."""
    pair = recipes.argument(arg)
    return recipes.distillation("simkd", pair, part(pair))
