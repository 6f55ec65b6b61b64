"""SFTN's branches for every pair of the published tables."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from configs import pairs
from kd_jax import methods, models
from kd_jax.methods.sftn import _placed, _stage_pairs


def trace(teacher, student, stages):
    """Shapes of the branches' variables, terms and logs, the teacher's network and theirs only traced."""
    network = models.create(teacher, 100)
    distiller = methods.sftn_branches(student=student, stages=stages)
    context = kd_jax.make_init_context(network, (), image_shape=(32, 32, 3), batch_size=2)
    key = jax.random.key(0)
    return jax.eval_shape(
        lambda view: distiller.apply(distiller.init(key, context), view, key, True)[1:], context.view_shapes
    )


def take_a_step(teacher, student, stages):
    """Metrics of a training step of a teacher with branches."""
    network = models.create(teacher, 100)
    distiller = methods.chain(ce=methods.ce(), sftn=methods.sftn_branches(student=student, stages=stages))
    context = kd_jax.make_init_context(network, (), image_shape=(32, 32, 3), batch_size=2)
    parts = {"student": network, "distiller": distiller, "tx": optax.sgd(0.01)}
    key, image = jax.random.key(0), jnp.zeros((2, 32, 32, 3))
    batch = {"image": image, "label": jnp.array([0, 1])}
    make = lambda: kd_jax.init_state(key, context=context, **parts)  # noqa: E731
    step = lambda state: kd_jax.train_step(state, None, batch, key, **parts)  # noqa: E731
    return jax.jit(lambda: step(make()))()[1]


TRACED = (("resnet32x4", "ShuffleV2"), ("vgg13", "MobileNetV2"), ("wrn_40_2", "wrn_16_2"))


@pytest.mark.parametrize(
    "pair", [p if p in TRACED else pytest.param(p, marks=pytest.mark.full) for p in pairs.PAIRS], ids="-".join
)
def test_every_pair_of_the_tables_traces(pair):
    stages = pairs.SFTN_STAGES[pair]
    terms, logs, _ = trace(*pair, stages)
    assert {name: t.shape for name, t in terms.items()} == {"ce": (2,), "kl": (2,)}
    assert len(logs) == 2 * len(_stage_pairs(stages))
    teacher, student = (models.shapes(models.create(n, 100), (32, 32, 3))[1].stages for n in pair)
    assert _stage_pairs(stages) == _placed((), len(teacher), len(student), pair[1])  # as an unlisted pair would be cut


@pytest.mark.full
@pytest.mark.parametrize("pair", pairs.PAIRS, ids="-".join)
def test_pairs_take_a_real_step(pair):
    metrics = take_a_step(*pair, pairs.SFTN_STAGES[pair])
    for name, mean in metrics.items():
        assert np.isfinite(float(mean.total)), name
    assert float(metrics["terms/sftn/ce"].total) > 0
