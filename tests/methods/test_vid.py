"""VID as a criterion: wiring, its own variables, focus, refusals, a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.engine.state import make_init_context
from kd_jax.layers.projector import Projector
from kd_jax.losses.common import pool_to
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.vid import vid
from kd_jax.typing import InitContext, Outputs, View

STUDENT, TEACHER = [(4, 4, 2), (4, 4, 3), (3, 2, 4)], [(8, 8, 4), (5, 7, 6), (4, 4, 8)]


def tiny(student=STUDENT, teacher=TEACHER, batch=6):
    """A view of random maps of the given shapes, and its context; the stem is (4, 4, 2) in both."""
    rng = np.random.default_rng(1)

    def outputs(shapes):
        preacts = [jnp.float32(rng.normal(0, 1, (batch, *s))) for s in [(4, 4, 2), *shapes]]
        stages = tuple(jnp.maximum(x, 0) for x in preacts)
        return Outputs(stages, tuple(preacts), stages[-1].mean((1, 2)), jnp.zeros((batch, 10)))

    view = View(
        jnp.zeros((batch, 8, 8, 3)), outputs(student), (outputs(teacher),), None, jnp.zeros(batch, int), None, 0
    )
    return view, InitContext(jax.eval_shape(lambda: view), 10)


def init_vars(distiller, context, seed=1):
    return jax.jit(lambda: distiller.init(jax.random.key(seed), context))()


def run(distiller, vars, view, train=True):
    """term, stats; the view must come back as it went in."""

    def both(vars, view):
        after, terms, logs, stats = distiller.apply(vars, view, jax.random.key(2), train)
        assert after is view and set(terms) == {""} and logs == {}
        return terms[""], stats

    return jax.jit(both)(vars, view)


def facts_of(teacher, student):
    networks = [models.create(name, 100) for name in (student, teacher)]
    return make_init_context(networks[0], (networks[1],), image_shape=(32, 32, 3), batch_size=2)


def step(distiller, vars, view):
    """One step of the method's parameters: all get a gradient, all is finite, the loss falls. Returns gradients."""

    def loss(params):
        terms, stats = distiller.apply(vars._replace(params=params), view, jax.random.key(2), True)[1::2]
        return terms[""].mean(), stats

    def descend(params):
        (before, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        size = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
        moved = jax.tree.map(lambda p, g: p - 1e-2 * before * g / size, params, grads)
        return before, loss(moved)[0], grads, stats

    before, after, grads, stats = jax.jit(descend)(vars.params)
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((before, after, grads, stats)))
    for path, g in jax.tree.leaves_with_path(grads):
        assert float(jnp.abs(g).max()) > 1e-5 * float(before), jax.tree_util.keystr(path)
    assert 0.97 * before < after < before
    return grads


def slow_vid(params, view, eps=1e-5, mask=1.0):
    total = 0.0
    for i, (s, t) in enumerate(zip(view.student.stages[1:], view.teachers[0].stages[1:], strict=True), 1):
        size = np.minimum(s.shape[1:3], t.shape[1:3])
        s, t = (np.float64(pool_to(x, tuple(size))) for x in (s, t))
        kernels = [np.float64(params[f"stage{i}"]["projector"][f"conv{n}"]["kernel"][0, 0]) for n in range(3)]
        mean = np.maximum(np.maximum(s @ kernels[0], 0) @ kernels[1], 0) @ kernels[2]
        variance = np.log(1 + np.exp(np.float64(params[f"stage{i}"]["log_scale"]))) + eps
        total += (0.5 * ((mask * mean - mask * t) ** 2 / variance + np.log(variance))).mean((1, 2, 3))
    return total


@pytest.fixture(scope="module")
def case():
    view, context = tiny()
    distiller = vid()
    return view, context, distiller, init_vars(distiller, context)


def test_against_the_formula(case):
    view, _, distiller, vars = case
    shifted = vars._replace(
        params=jax.tree.map(
            lambda p: np.asarray(p) + 0.1 * np.sin(np.arange(p.size, dtype=np.float32)).reshape(p.shape), vars.params
        )
    )
    value, stats = run(distiller, shifted, view)
    assert value.shape == (6,) and stats == {} and distiller.needs == {"teacher.stages"}
    np.testing.assert_allclose(value, slow_vid(shifted.params, view), rtol=1e-5)
    np.testing.assert_array_equal(run(distiller, shifted, view, train=False)[0], value)


def test_variables(case):
    _, context, _, vars = case
    shapes = {f"stage{i}": (s, t) for i, (s, t) in enumerate([(2, 4), (3, 6), (4, 8)], 1)}
    assert set(vars.params) == set(shapes) and vars.stats == {} and vars.policy == {}
    for name, (s, t) in shapes.items():
        stage = vars.params[name]
        assert stage["log_scale"].shape == (t,)
        assert [p["kernel"].shape[2:] for p in stage["projector"].values()] == [(s, t), (t, t), (t, t)]
    for start, eps in ((5.0, 1e-5), (0.01, 1e-3), (300.0, 1e-5)):
        scale = init_vars(vid(init_variance=start, eps=eps), context).params["stage1"]["log_scale"]
        np.testing.assert_allclose(jax.nn.softplus(scale) + eps, start, rtol=1e-6)


def test_a_step_trains_means_and_variances(case):
    view, _, distiller, vars = case
    grads = step(distiller, vars, view)
    assert all(float(jnp.abs(stage["log_scale"]).max()) > 1e-3 for stage in grads.values())


def test_the_gradient_reaches_student_and_teacher(case):
    view, _, distiller, vars = case

    def loss(student, teacher):
        teachers = (view.teachers[0]._replace(stages=teacher),)
        changed = view._replace(student=view.student._replace(stages=student), teachers=teachers)
        return distiller.apply(vars, changed, None, True)[1][""].mean()

    for grads in jax.jit(jax.grad(loss, (0, 1)))(view.student.stages, view.teachers[0].stages):
        assert [bool(g.any()) for g in grads] == [False, True, True, True]


def test_focus_masks_both_maps(case):
    view, _, distiller, vars = case
    for mask in (1.0, 0.0, 2.0):
        value = run(distiller, vars, view._replace(spatial_mask=jnp.full((6, 4, 4, 1), mask)))[0]
        np.testing.assert_allclose(value, slow_vid(vars.params, view, mask=mask), rtol=1e-5)


def test_focus_is_of_areas():
    view, context = tiny([(4, 4, 3)], [(4, 4, 5)])
    distiller = vid()
    vars, mask = init_vars(distiller, context), jnp.zeros((6, 4, 4, 1)).at[:, 1:3, :2].set(1)
    value = run(distiller, vars, view._replace(spatial_mask=mask))[0]
    np.testing.assert_allclose(value, slow_vid(vars.params, view, mask=np.asarray(mask)), rtol=1e-5)


def test_networks_are_aligned_from_the_output_side():
    view, context = tiny(STUDENT[1:], TEACHER)
    distiller = vid()
    vars = init_vars(distiller, context)
    assert [stage["log_scale"].size for stage in vars.params.values()] == [6, 8]
    cut = view._replace(teachers=(view.teachers[0]._replace(stages=view.teachers[0].stages[1:]),))
    np.testing.assert_allclose(run(distiller, vars, view)[0], slow_vid(vars.params, cut), rtol=1e-5)


def test_as_many_parameters_as_published():
    """Two more layers in the teacher's width, RepDistiller's variances included."""
    context = facts_of("resnet32x4", "resnet8x4")
    params = jax.eval_shape(lambda: vid().init(jax.random.key(0), context)).params
    widths = 64, 128, 256
    assert models.count_parameters(params) == sum(3 * c * c + c for c in widths)
    assert params["stage2"]["projector"]["conv0"]["kernel"].shape == (1, 1, 128, 128)
    assert Projector(3).width == 3


def test_weights(case):
    view, _, distiller, vars = case
    one = run(distiller, vars, view)[0]
    np.testing.assert_allclose(run(vid(weight=lambda step: 3.0 + step), vars, view)[0], 3 * one, rtol=1e-6)
    off = vid(weight=0.0)
    assert off.init(None, None) == NO_VARS and off.apply(NO_VARS, view, None, True) == (view, {}, {}, {})


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"eps": 0.0}, "vid: eps must be a finite number above 0, got 0.0"),
    ({"init_variance": 1e-5}, "vid: init_variance must be a finite number above eps, got 1e-05"),
    ({"init_variance": float("inf")}, "vid: init_variance must be a finite number above eps, got inf"),
])  # fmt: skip
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        vid(**kwargs)


def test_a_network_of_one_stage():
    with pytest.raises(ValueError, match="vid: no stage 1: the student has 1, the teacher 4"):
        vid().init(jax.random.key(0), tiny([], TEACHER)[1])
