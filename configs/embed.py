"""Embedding distillation: CE + the cosine distance of the pooled features, through a linear projector.

python launch/train.py --config=configs/embed.py:resnet32x4,resnet8x4 --workdir=runs/embed --config.data.dir=DIR
The squared distance: --config.student.terms.embed.distance=mse. Our choice of weights; no published figure goes with
them. For a teacher that is no network of ours and images without labels, see docs/flags.md.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """CE + the distance of the embeddings."""
    return recipes.Part(terms={"ce": recipes.member("ce"), "embed": recipes.member("embed")})


def get_config(arg: str = ""):
    """Teacher, then student by its embedding."""
    pair = recipes.argument(arg)
    return recipes.distillation("embed", pair, part(pair))
