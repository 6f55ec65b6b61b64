"""VID (Ahn et al. 2019): CE + the teacher's stages under Gaussians that the student predicts.

python launch/train.py --config=configs/vid.py:resnet32x4,resnet8x4 --workdir=runs/vid --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 73.09 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + VID."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "vid": recipes.member("vid")})


def get_config(arg: str = ""):
    """Teacher, then student by VID."""
    pair = recipes.argument(arg)
    return recipes.distillation("vid", pair, part(pair))
