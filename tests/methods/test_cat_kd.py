"""CAT-KD as a criterion: wiring, focus, refusals, a real step, and what it costs others."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import methods
from kd_jax.engine import optim
from kd_jax.engine.state import abstract_state
from kd_jax.engine.step import select_outputs
from kd_jax.losses import features
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.cat_kd import cat_kd
from kd_jax.models import base
from kd_jax.typing import Outputs

NEEDS = frozenset({"student.cam", "teacher.cam"})


@pytest.fixture(scope="module")
def setting(nets):
    """A view of class activation maps (8, 4, 4, 10) and (8, 8, 6, 10), and the context of resnet8s."""
    context = kd_jax.make_init_context(nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8)
    maps = [jax.random.normal(jax.random.key(i), (8, *s, 10)) for i, s in enumerate([(4, 4), (8, 6), (2, 2)])]
    outputs = [Outputs((), None, None, x.mean((1, 2)), x) for x in maps]
    view = context.view_shapes._replace(student=outputs[0], teachers=tuple(outputs[1:]), step=jnp.int32(0))
    return view, context


def run(distiller, view):
    after, terms, logs, stats = distiller.apply(NO_VARS, view, jax.random.key(0), True)
    assert after is view and set(terms) == {""} and logs == stats == {}
    return terms[""]


@pytest.mark.parametrize(
    ("kwargs", "weight", "options"),
    [
        ({}, 400, {"resolution": 2, "normalize": True}),
        ({"weight": 15.0, "normalize": False}, 15, {"resolution": 2, "normalize": False}),
        ({"weight": lambda step: 80.0 + step, "resolution": 4}, 80, {"resolution": 4, "normalize": True}),
    ],
)
def test_a_weight_times_the_loss_of_the_first_teacher(setting, kwargs, weight, options):
    view, context = setting
    distiller = cat_kd(**kwargs)
    assert distiller.init(jax.random.key(0), context) == NO_VARS and distiller.needs == NEEDS
    expected = features.cat_kd(student=view.student.cam, teacher=view.teachers[0].cam, **options)
    np.testing.assert_allclose(run(distiller, view), weight * expected, rtol=1e-6)


def test_focus_masks_both_maps(setting, rng):
    view, _ = setting
    mask = np.float32(rng.random((8, 2, 2, 1)) < 0.5)
    looked = [
        np.asarray(x) * np.repeat(np.repeat(mask, x.shape[1] // 2, 1), x.shape[2] // 2, 2)
        for x in (view.student.cam, view.teachers[0].cam)
    ]
    expected = 400 * features.cat_kd(student=looked[0], teacher=looked[1], normalize=True)
    ours = run(cat_kd(), view._replace(spatial_mask=jnp.asarray(mask)))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert not np.allclose(ours, run(cat_kd(), view))


def test_refusals(setting):
    with pytest.raises(ValueError, match="cat_kd: resolution must be at least 1, got 0"):
        cat_kd(resolution=0)
    with pytest.raises(ValueError, match="cat_kd: resolution 3: a map 2 high or wide is smaller, but no divisor"):
        cat_kd(resolution=3).init(jax.random.key(0), setting[1])


def test_only_where_they_are_needed_do_maps_leave_the_teacher(setting):
    outputs = setting[0].teachers[0]
    assert select_outputs(outputs, NEEDS).cam is outputs.cam
    assert select_outputs(outputs, frozenset({"match", "teacher.stages", "student.cam"})).cam is None


def step_of(nets, distiller):
    """The step of a distiller, and its arguments as shapes."""
    tx = optim.grouped(optim.sgd, lambda step: 0.01, distiller.lr_multipliers)
    context = kd_jax.make_init_context(nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8)
    state = abstract_state(student=nets["student"], distiller=distiller, tx=tx, context=context)
    taught = select_outputs(context.view_shapes.teachers[0], distiller.needs)
    step = jax.jit(partial(kd_jax.train_step, student=nets["student"], distiller=distiller, tx=tx))
    return step, (state, taught, nets["batch"], jax.random.key(0))


def test_real_steps(nets):
    """The term falls, and it alone moves the network's classifier and what is before it."""
    step, (state, _, *rest) = step_of(nets, methods.chain(cat=cat_kd(weight=1.0, normalize=False)))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    state = state._replace(
        params={"student": nets["sv"].params, "method": {}}, stats={"student": nets["sv"].stats, "method": {}}
    )
    taught, values = kd_jax.teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"]), []
    for _ in range(4):
        state, metrics = step(state, select_outputs(taught, cat_kd().needs), *rest)
        values.append(float(metrics["terms/cat"].total / metrics["terms/cat"].count))
    assert values[-1] < values[0]
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), nets["sv"].params, state.params["student"])
    assert moved["fc"] == {"kernel": True, "bias": True} and moved["conv1"]["kernel"]


def test_who_does_not_need_the_maps_does_not_pay(nets, monkeypatch):
    """The lowered step is, letter by letter, that of a network that makes none."""
    members = {"ce": methods.ce(weight=0.1), "kd": methods.kd(weight=0.9), "at": methods.at()}
    plain, reads = methods.chain(**members), methods.chain(**members, cat=cat_kd())

    def lowered(chain):
        step, arguments = step_of(nets, chain)
        return step.lower(*arguments)

    with_maps, costly = lowered(plain), lowered(reads)
    whole = base.apply

    def without(*args, **kwargs):
        outputs, stats = whole(*args, **kwargs)
        return outputs._replace(cam=None), stats

    monkeypatch.setattr(base, "apply", without)
    assert with_maps.as_text() == lowered(plain).as_text()
    assert with_maps.cost_analysis()["flops"] < costly.cost_analysis()["flops"]
