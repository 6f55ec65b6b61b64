"""PKT (Passalis, Tefas 2018): CE + 30000 KL of the similarities of pooled features within the batch.

python launch/train.py --config=configs/pkt.py:resnet32x4,resnet8x4 --workdir=runs/pkt --config.data.dir=DIR
Published on CIFAR-100 (RepDistiller): 73.64 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + PKT."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "pkt": recipes.member("pkt")})


def get_config(arg: str = ""):
    """Teacher, then student by PKT."""
    pair = recipes.argument(arg)
    return recipes.distillation("pkt", pair, part(pair))
