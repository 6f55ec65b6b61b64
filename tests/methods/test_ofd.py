"""OFD: margins against the formula, which BatchNorms they come from, wiring, refusals, a step."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from kd_jax import models
from kd_jax.engine.state import make_init_context
from kd_jax.losses import hints
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.ofd import margin, ofd
from kd_jax.models.resnet import Bottleneck, ResNet
from kd_jax.models.vgg import VGG
from kd_jax.models.wrn import WideResNet
from kd_jax.typing import Variables
from tests.methods.test_vid import STUDENT, TEACHER, facts_of, init_vars, run, step, tiny


class Stand(NamedTuple):
    """In the place of a teacher: all that OFD reads of its model."""

    bn_before_relu: tuple = ("a/bn", "b/0/bn", "bn")


def stand(widths=(4, 6, 8)):
    rng = np.random.default_rng(7)
    bns = [{"scale": jnp.float32(rng.normal(0, 1, c)), "bias": jnp.float32(rng.normal(0, 1, c))} for c in widths]
    return Stand(), Variables({"a": {"bn": bns[0]}, "b": {"0": {"bn": bns[1]}}, "bn": bns[2]}, {})


def slow_margin(scale, bias):
    out = []
    for s, m in zip(np.abs(scale), bias, strict=True):
        if scipy_stats.norm.cdf(-m / s) > 0.001:
            out.append(-s * math.exp(-((m / s) ** 2) / 2) / math.sqrt(2 * math.pi) / scipy_stats.norm.cdf(-m / s) + m)
        else:
            out.append(-3 * s)
    return np.array(out)


def test_margin_against_the_formula(rng, x64):
    """Channels on both sides of cdf = 0.001, which is 3.09 deviations."""
    scale, bias = rng.normal(0, 1, 40), rng.normal(0, 1, 40)
    scale[:6], bias[:6] = [0.5, -0.5, 0.5, 2.0, -0.1, 0.3], [1.54, 1.54, 1.55, 100.0, 0.31, -6.0]
    with np.errstate(under="ignore"):
        slow = slow_margin(scale, bias)
    assert (scipy_stats.norm.cdf(-bias / np.abs(scale)) <= 0.001).sum() >= 3 and slow[2] == -1.5
    ours = jax.jit(margin)(scale, bias)
    np.testing.assert_allclose(ours, slow, rtol=1e-9)
    assert (ours <= 0).all()


def test_margin_is_the_mean_below_zero(rng, x64):
    scale, bias = 1.3, 0.7
    drawn = rng.normal(bias, scale, 10**6)
    np.testing.assert_allclose(margin(jnp.array([scale]), jnp.array([bias])), drawn[drawn < 0].mean(), rtol=3e-3)


def test_margin_of_a_dead_channel_is_its_limit():
    """A scale of 0: min(bias, 0). The published code divides by it."""
    scale = jnp.float32([0, 0, 0, 1e-30, 1e-30, 1e-30, -0.0, 1e-40])
    bias = jnp.float32([0, 2, -2, 0, 2, -2, 1e30, 0])
    with jax.debug_nans(True):  # not even on the way
        ours = margin(scale, bias)
    np.testing.assert_allclose(ours, [0, 0, -2, 0, 0, -2, 0, 0], atol=1e-10)
    assert margin(jnp.bfloat16([1.0]), jnp.bfloat16([0.0])).dtype == jnp.float32


FAMILIES = (ResNet, WideResNet, VGG)
MEMBERS = [name for name in models.MODELS if isinstance(models.create(name, 10), FAMILIES)]
DEEP = ("resnet14", "resnet32", "resnet44", "resnet56", "resnet110", "vgg11", "vgg16", "vgg19", "wrn_40_1", "wrn_40_2")


def at(params, path):
    for part in path.split("/"):
        params = params[part]
    return params


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) if n in DEEP else n for n in MEMBERS])
def test_bn_before_relu_is_there_and_as_wide(name):
    model = models.create(name, 10)
    variables, outputs = models.shapes(model, (32, 32, 3))
    shapes = [at(variables.params, path)["scale"].shape for path in model.bn_before_relu]
    assert shapes == [(x.shape[-1],) for x in outputs.preacts[1:]] and len(shapes) >= 3
    assert all(isinstance(path, str) for path in model.bn_before_relu)


@pytest.mark.parametrize(("model", "last"), [
    (ResNet(blocks=(2, 1, 3), widths=(2, 2, 3, 4)), ("layer1/1/bn2", "layer2/0/bn2", "layer3/2/bn2")),
    (ResNet(blocks=(1, 2), widths=(4, 4, 8), block=Bottleneck), ("layer1/0/bn3", "layer2/1/bn3")),
    (WideResNet(depth=16, widen=1), ("block2/layer.0/bn1", "block3/layer.0/bn1", "bn1")),
    (VGG(widths=((2,), (2, 2), (3,), (3, 3), (4, 4, 4))), ("block1/4", "block2/1", "block3/4", "block4/7")),
], ids=["resnet", "bottleneck", "wrn", "vgg"])  # fmt: skip
def test_bn_before_relu_shifts_the_stage(model, last):
    """The bias of the one named, and of no other, is added to the map before the stage's last ReLU."""
    assert model.bn_before_relu == last
    image = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    params, stats = jax.jit(partial(models.init, model))(jax.random.key(1), image)
    preacts = jax.jit(lambda p: models.apply(model, Variables(p, stats), image)[0].preacts)
    before = preacts(params)
    for i, path in enumerate(last, 1):
        moved = jax.tree_util.tree_map_with_path(
            lambda p, x, path=path: x + 1 if [k.key for k in p] == [*path.split("/"), "bias"] else x, params
        )
        np.testing.assert_allclose(preacts(moved)[i], before[i] + 1, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def case():
    view, context = tiny()
    context = context._replace(teachers=(stand(),))
    return view, context, ofd(), init_vars(ofd(), context)


def connected(vars, view, students):
    """The connectors by hand, in training."""
    out = []
    for i, x in enumerate(students, 1):
        connector = jax.tree.map(np.float64, vars.params[f"stage{i}"]["connector"])
        y = np.float64(x) @ connector["conv"]["kernel"][0, 0]
        y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
        out.append(y * connector["bn"]["scale"] + connector["bn"]["bias"])
    return out


def expected(vars, view, mask=1.0):
    students = [mask * x for x in connected(vars, view, view.student.preacts[1:])]
    teachers, margins = view.teachers[0].preacts[1:], [stage["margin"] for stage in vars.stats.values()]
    return 1e-3 * hints.ofd(students=students, teachers=[mask * x for x in teachers], margins=margins)


def test_a_thousandth_of_the_loss_behind_the_connectors(case):
    view, _, distiller, vars = case
    vars = vars._replace(
        params=jax.tree.map(
            lambda p: np.asarray(p) + 0.1 * np.cos(np.arange(p.size, dtype=np.float32)).reshape(p.shape), vars.params
        )
    )
    value, _ = run(distiller, vars, view)
    assert value.shape == (6,) and distiller.needs == {"student.preacts", "teacher.preacts", "fixed.teacher"}
    np.testing.assert_allclose(value, expected(vars, view), rtol=1e-4)
    only = view._replace(  # what training hands over: nothing but what is needed
        teachers=(view.teachers[0]._replace(stages=(), pooled=None),),
        student=view.student._replace(stages=(0, 0, 0, 0)),
    )
    np.testing.assert_array_equal(run(distiller, vars, only)[0], value)


def test_margins_are_the_teachers_and_stay(case):
    view, _, distiller, vars = case
    norms = stand()[1].params
    for i, bn in enumerate((norms["a"]["bn"], norms["b"]["0"]["bn"], norms["bn"]), 1):
        slow = slow_margin(np.float64(bn["scale"]), np.float64(bn["bias"]))
        np.testing.assert_allclose(vars.stats[f"stage{i}"]["margin"], slow, rtol=1e-4)
    assert set(vars.params["stage1"]) == {"connector"} and vars.policy == {}
    for train in (True, False):
        _, stats = run(distiller, vars, view, train)
        assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
        for name, stage in stats.items():
            np.testing.assert_array_equal(stage["margin"], vars.stats[name]["margin"])
            for a, b in zip(*map(jax.tree.leaves, (stage["connector"], vars.stats[name]["connector"])), strict=True):
                assert np.array_equal(a, b) != train
    assert not np.allclose(run(distiller, vars, view)[0], run(distiller, vars, view, False)[0])


def test_a_step(case):
    view, _, distiller, vars = case
    step(distiller, vars, view)


def test_focus_masks_both_maps(case):
    view, context, distiller, vars = case
    for mask in (1.0, 0.0, 2.0):
        value = run(distiller, vars, view._replace(spatial_mask=jnp.full((6, 4, 4, 1), mask)))[0]
        np.testing.assert_allclose(value, expected(vars, view, mask), rtol=1e-4)


def test_networks_are_aligned_from_the_output_side():
    """Margins too."""
    view, context = tiny(STUDENT[1:], TEACHER)
    vars = init_vars(ofd(), context._replace(teachers=(stand(),)))
    cut = view._replace(teachers=(view.teachers[0]._replace(preacts=view.teachers[0].preacts[1:]),))
    # compiled as init is, with constants
    expected_margin = jax.jit(lambda: margin(**stand()[1].params["b"]["0"]["bn"]))()
    np.testing.assert_array_equal(vars.stats["stage1"]["margin"], expected_margin)
    np.testing.assert_allclose(run(ofd(), vars, view)[0], expected(vars, cut), rtol=1e-4)
    vars = init_vars(ofd(), tiny(STUDENT, TEACHER[1:])[1]._replace(teachers=(stand(),)))
    assert [stage["margin"].size for stage in vars.stats.values()] == [6, 8]


def test_a_real_teacher(nets):
    """Margins from its parameters; the same shapes while only shapes are known."""
    context = make_init_context(nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8)
    concrete = context._replace(teachers=((nets["teacher"], nets["tv"]),))
    vars = init_vars(ofd(), concrete)
    # BatchNorm at (1, 0): minus the mean of half a Gaussian
    assert all(np.allclose(stage["margin"], -((2 / np.pi) ** 0.5)) for stage in vars.stats.values())
    shapes = jax.eval_shape(lambda: nets["tv"])
    checked = jax.eval_shape(
        lambda: ofd().init(jax.random.key(1), context._replace(teachers=((nets["teacher"], shapes),)))
    )
    assert checked == jax.eval_shape(lambda: vars)
    traced = jax.eval_shape(  # as an argument of a compiled program
        lambda tv: ofd().init(jax.random.key(1), context._replace(teachers=((nets["teacher"], tv),))), nets["tv"]
    )
    assert traced == checked


def test_as_many_parameters_as_published():
    """86.9 K for resnet32x4 and resnet8x4."""
    context, teacher = facts_of("resnet32x4", "resnet8x4"), models.create("resnet32x4", 100)
    context = context._replace(teachers=((teacher, models.shapes(teacher, (32, 32, 3))[0]),))
    vars = jax.eval_shape(lambda: ofd().init(jax.random.key(0), context))
    assert models.count_parameters(vars.params) == sum(c * c + 2 * c for c in (64, 128, 256)) == 86912


def test_weights(case):
    view, _, distiller, vars = case
    one = run(distiller, vars, view)[0]
    np.testing.assert_allclose(run(ofd(weight=lambda step: 3.0 + step), vars, view)[0], 3000 * one, rtol=1e-5)
    off = ofd(weight=0.0)
    assert off.init(None, None) == NO_VARS and off.apply(NO_VARS, view, None, True) == (view, {}, {}, {})


@pytest.mark.parametrize("name", ["MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_teachers_without_margins(name):
    model, (_, context) = models.create(name, 10), tiny()
    context = context._replace(teachers=((model, None),))
    with pytest.raises(ValueError, match=f"ofd: a {name} cannot be the teacher: it has no bn_before_relu"):
        ofd().init(jax.random.key(0), context)


def test_refusals():
    view, context = tiny()
    with pytest.raises(ValueError, match="ofd: context.teachers is empty"):
        ofd().init(jax.random.key(0), context)
    without = context.view_shapes._replace(student=context.view_shapes.student._replace(preacts=None))
    with pytest.raises(ValueError, match="ofd: needs pre-activation features, which the student has not"):
        ofd().init(jax.random.key(0), context._replace(view_shapes=without, teachers=(stand(),)))
    with pytest.raises(ValueError, match="ofd: no stage 1: the student has 1, the teacher 4"):
        ofd().init(jax.random.key(0), tiny([], TEACHER)[1]._replace(teachers=(stand(),)))
