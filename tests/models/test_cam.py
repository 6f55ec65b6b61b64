"""Class activation maps: the classifier at every place; free for those who do not read them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.models import efficientnet, imagenet, vit
from kd_jax.models.base import multiply_adds

# one network of every family, as small as the family allows
QUICK = {
    "resnet8": {}, "wrn_16_1": {}, "vgg8": {}, "MobileNetV2": {"expand": 1},
    "ShuffleV1": {"blocks": (1, 1, 1)}, "ShuffleV2": {"blocks": (1, 1, 1)},
}  # fmt: skip
# height of the last map for images of 32 pixels
HEIGHT = {
    **dict.fromkeys(("vgg8", "vgg11", "vgg13", "vgg16", "vgg19", "ShuffleV1", "ShuffleV2", "ResNet18", "ResNet50"), 4),
    "MobileNetV2": 2,
    **dict.fromkeys((*imagenet.NETWORKS, *efficientnet.NETWORKS), 1),
}


@pytest.mark.parametrize("name", models.MODELS)
def test_shapes(name):
    _, out = models.shapes(models.create(name, 100), (32, 32, 3), batch=2)
    if name in vit.NETWORKS:
        assert out.cam is None  # tokens are no map
        return
    height = HEIGHT.get(name, 8)
    assert out.cam.shape == (2, height, height, 100) and out.cam.dtype == jnp.float32


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.full) if n in ("MobileNetV2", "ShuffleV2") else n for n in QUICK],
)
def net(request):
    """A network with biases; images that are not square and end in a small map."""
    model = models.create(request.param, 7, **QUICK[request.param])
    image = jax.random.normal(jax.random.key(0), (2, *((64, 32) if request.param == "MobileNetV2" else (32, 16)), 3))

    def biased(path, x):
        return x + jax.random.normal(jax.random.key(1), x.shape) if path[-1].key == "bias" else x

    def everything():
        variables = models.init(model, jax.random.key(2), image)
        variables = variables._replace(params=jax.tree_util.tree_map_with_path(biased, variables.params))
        out, _ = models.apply(model, variables, image)
        last = len(out.stages) - 1
        return variables.params, out, models.apply(model, variables, out.stages[last], after=last)[0]

    return request.param, *jax.jit(everything)()


def test_the_classifier_at_every_place(net):
    """Its mean is the logits. Of a network that continues after its last stage too."""
    name, params, *outputs = net
    for out in outputs:
        rows, columns = out.cam.shape[1:3]
        largest = float(jnp.abs(out.cam).max())
        assert rows == 2 * columns and float(out.cam.std((1, 2)).mean()) > 1e-3 * largest
        np.testing.assert_allclose(out.cam.mean((1, 2)), out.logits, atol=1e-5 * largest)
        np.testing.assert_allclose(out.cam, outputs[0].cam, atol=1e-5 * largest)
    if name in ("MobileNetV2", "ShuffleV2"):  # the map that is pooled is none of the stages
        return
    last = jax.nn.relu(outputs[0].preacts[-1]) if name == "wrn_16_1" else outputs[0].stages[-1]
    classifier = next(params[head] for head in ("fc", "classifier", "linear") if head in params)
    slow = np.einsum("bhwc,ck->bhwk", np.float64(last), np.float64(classifier["kernel"])) + np.float64(
        classifier["bias"]
    )
    np.testing.assert_allclose(out.cam, slow, atol=1e-5 * abs(slow).max())


def test_what_only_they_take_is_not_counted():
    model = models.create("resnet8", 7)
    variables, outputs = models.shapes(model, (32, 32, 3))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

    def count(read):
        return multiply_adds(jax.make_jaxpr(lambda v, x: read(models.apply(model, v, x)[0]))(variables, image))

    plain = models.count_multiply_adds(model, (32, 32, 3))
    classifier = 64 * 7
    assert count(lambda out: out.logits) == plain
    assert count(lambda out: out) == plain + classifier * 8 * 8
    assert count(lambda out: out.cam) == plain + classifier * (8 * 8 - 1)
    assert count(lambda out: out.pooled) == plain - classifier
    assert count(lambda out: 1.0) == 0
