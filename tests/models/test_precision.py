"""bfloat16: no cast of a map between layers but those that batch normalisation, which computes in float32, needs.

On a CPU depthwise convolutions sum in float32 too, so that they are looked at as a GPU has them.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from kd_jax import models

BATCH = 5  # the first axis of maps, and of no kernel
CONVERT = re.compile(r"stablehlo.convert (%\w+) : \(tensor<([^>]*)>\) -> tensor<([^>]*)>")


def casts(model, train, platform="cuda"):
    """How many different maps and images are cast, by the types before and after."""
    variables, _ = models.shapes(model, (32, 32, 3))
    image = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)
    logits = jax.jit(lambda v, x: models.apply(model, v, x, train=train)[0].logits)
    text = logits.trace(variables, image).lower(lowering_platforms=(platform,)).as_text()
    bodies, pairs = text.split("func.func"), []  # names of values are of one function
    for body in bodies:
        maps = {m.groups() for m in CONVERT.finditer(body) if re.match(rf"{BATCH}x\d+x\d+x\d+x", m[2])}
        pairs += [(before.split("x")[-1], after.split("x")[-1]) for _, before, after in maps]
    return (
        pairs.count(("bf16", "f32")),
        pairs.count(("f32", "bf16")),
        len(jax.tree.leaves(variables.stats)) // 2,
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("name", "platform"), [
    ("resnet8x4", "cuda"), ("resnet8x4", "cpu"), ("wrn_16_1", "cuda"), ("wrn_16_1", "cpu"), ("MobileNetV2", "cuda"),
])  # fmt: skip
def test_pairs(name, platform, train):
    model = models.with_options(models.create(name, 10), precision="bfloat16")
    up, down, norms = casts(model, train, platform)
    assert down == norms + 1  # behind every batch normalisation, and the image
    assert norms <= up <= norms + 1  # before it, and before the mean over the last map
