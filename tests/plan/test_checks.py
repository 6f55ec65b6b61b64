"""What the trace of a step shows: batch normalization over a single value a channel."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

import kd_jax
from kd_jax import config, methods, models
from kd_jax.plan import checks
from tests.conftest import TINY, tree

KEY = jax.random.key(0)


def norms(*, batch, size, accumulate=1, trains="all", **members):
    """What is found in the trace of a step of a tiny resnet8, whose last map has size / 4 pixels a side."""
    nets, distiller = [models.create("resnet8", 5, **TINY)] * 2, methods.chain(**members)
    context = kd_jax.make_init_context(
        nets[0], (nets[1],), image_shape=(size, size, 3), batch_size=batch, needs=distiller.needs
    )
    parts = {"student": nets[0], "distiller": distiller, "tx": optax.sgd(0.1), "trains": trains}
    state = jax.eval_shape(partial(kd_jax.init_state, KEY, context=context, **parts))
    view = context.view_shapes
    step = partial(kd_jax.train_step, **parts, accumulate=accumulate)
    with checks.single_value_norms() as layers:
        jax.eval_shape(step, state, view.teachers, {"image": view.image, "label": view.labels}, KEY)
    return layers


def test_a_batch_of_one_on_a_map_of_one_pixel():
    layers = norms(batch=1, size=4, ce=methods.ce())
    assert layers and all(name.startswith("layer3") for name in layers) and len(set(layers)) == len(layers)
    assert norms(batch=2, size=4, ce=methods.ce()) == [] and norms(batch=1, size=8, ce=methods.ce()) == []
    assert norms(batch=1, size=4, trains="method", ce=methods.ce()) == []  # running statistics


def test_a_part_of_one():
    assert norms(batch=4, size=4, accumulate=4, ce=methods.ce())
    assert norms(batch=4, size=4, accumulate=2, ce=methods.ce()) == []


def test_layers_of_a_method_are_looked_at_too():
    layers = norms(batch=1, size=4, ce=methods.ce(), fit=methods.fitnet(stage=3))
    assert len(layers) > len(norms(batch=1, size=4, ce=methods.ce()))


def test_a_device_of_one():
    """Under shard_map a layer sees the rows of its device."""
    net = models.create("resnet8", 5, **TINY)
    variables = jax.eval_shape(partial(models.init, net), KEY, jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32))
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def forward(variables, image):
        return models.apply(net, variables, image, train=True)[0].logits

    local = jax.shard_map(forward, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec("data"))
    for batch, single in ((4, True), (8, False)):
        with checks.single_value_norms() as layers:
            jax.eval_shape(local, variables, jax.ShapeDtypeStruct((batch, 4, 4, 3), jnp.float32))
        assert bool(layers) == single


def test_the_message_is_one_line_that_names_the_keys():
    phase = config.parse(tree(student__batch_size=1)).phases[1]
    assert checks.single_value_warning(phase, []) is None
    message = checks.single_value_warning(phase, ["a.bn1", "a.bn2", "b.bn", "c.bn"])
    assert "\n" not in message and "in a.bn1, a.bn2, b.bn and 1 more:" in message
    assert message.startswith("warning: student: ") and "config.student.batch_size (1)" in message


@pytest.mark.parametrize("batch", [1, 2])
def test_such_a_layer_has_no_variance(batch):
    """Why it matters: whatever it is fed, it returns its bias, and its running variance only shrinks."""
    net = models.create("resnet8", 5, **TINY)
    images = jax.random.normal(KEY, (2, batch, 4, 4, 3))
    variables = models.init(net, KEY, images[0])
    last = [models.apply(net, variables, image, train=True)[1]["layer3"]["0"]["bn2"]["var"] for image in images]
    fresh = variables.stats["layer3"]["0"]["bn2"]["var"]
    shrinks = [bool(jnp.allclose(var, 0.9 * fresh, rtol=1e-6)) for var in last]  # a batch's variance of exactly 0
    assert shrinks == [batch == 1] * 2
