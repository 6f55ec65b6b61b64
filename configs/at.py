"""AT (Zagoruyko, Komodakis 2017): CE + 1000 squared differences of attention maps over all stages, p = 2.

python launch/train.py --config=configs/at.py:resnet32x4,resnet8x4 --workdir=runs/at --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 73.44 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def get_config(arg: str = ""):
    """Teacher, then student by AT."""
    terms = {"ce": recipes.member("ce"), "at": recipes.member("at")}
    return recipes.distillation("at", recipes.argument(arg), terms=terms)
