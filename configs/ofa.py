"""OFA-KD (Hao et al. 2023): CE + a cross-entropy with the teacher on the student's logits and on exits of its stages.

python launch/train.py --config=configs/ofa.py:ResNet50,MobileNetV2 --workdir=runs/ofa --config.data.dir=DIR
Its recipes are of 224 pixels and 300 epochs; with CIFAR's recipe nothing is published. Weights and power are 1, as in
its code; on ImageNet the power is 1.5, and of all classes. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE and OFA."""
    ofa = recipes.member("ofa", **({"power": 1.5, "all_classes": True} if pair.large else {}))
    return recipes.Part(terms={"ce": recipes.member("ce"), "ofa": ofa})


def get_config(arg: str = ""):
    """Teacher, then student by OFA-KD."""
    pair = recipes.argument(arg)
    return recipes.distillation("ofa", pair, part(pair))
