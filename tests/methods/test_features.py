"""FitNet, AT, NST and KDSVD as criteria: wiring, their own variables, focus, refusals, real steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from configs import pairs
from kd_jax import losses, methods, models
from kd_jax.layers.regressor import Regressor
from kd_jax.losses import features, svd
from kd_jax.methods.base import NO_VARS
from kd_jax.typing import Outputs

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def setting(nets):
    """A view of resnet8s: stages 8 8 4 2 high, the teacher's twice as wide, and its context."""
    outputs = [
        jax.jit(models.apply, static_argnums=0)(nets[m], nets[v], nets["batch"]["image"])[0]
        for m, v in (("student", "sv"), ("teacher", "tv"))
    ]
    context = kd_jax.make_init_context(nets["student"], (nets["teacher"],), image_shape=SHAPE, batch_size=8)
    view = context.view_shapes._replace(
        student=outputs[0], teachers=(outputs[1],), labels=nets["batch"]["label"], step=jnp.int32(0)
    )
    return view, context


def with_vars(distiller, context):
    return distiller, jax.jit(lambda: distiller.init(jax.random.key(1), context))()


def run(distiller, vars, view, train=True):
    """term, logs, stats; the view must come back as it went in."""
    after, terms, logs, stats = distiller.apply(vars, view, jax.random.key(2), train)
    assert after is view and set(terms) == {""} and logs == {}
    return terms[""], stats


@pytest.fixture(scope="module")
def fit(setting):
    return with_vars(methods.fitnet(), setting[1])


def regressed(vars, view, stage=2, depth=1, train=True):
    variables = {"params": vars.params["regressor"], "batch_stats": vars.stats["regressor"]}
    layer = Regressor(view.teachers[0].stages[stage].shape[1:], depth)
    return layer.apply(variables, view.student.stages[stage], train, mutable=["batch_stats"])


def test_fitnet_is_100_times_the_loss_behind_the_regressor(setting, fit):
    view, _ = setting
    value, stats = run(*fit, view)
    student, moved = regressed(fit[1], view)
    teacher = view.teachers[0].stages[2]
    assert student.shape == teacher.shape == (8, 4, 4, 16) and value.shape == (8,)
    np.testing.assert_allclose(value, 100 * losses.fitnet(student=student, teacher=teacher), rtol=1e-6)
    slow = 100 * ((np.float64(student) - np.float64(teacher)) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(value, slow, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, {"regressor": moved["batch_stats"]})


def test_statistics_are_the_methods_and_move_in_training_only(setting, fit):
    view, _ = setting
    distiller, vars = fit
    assert set(vars.params) == set(vars.stats) == {"regressor"} and vars.policy == {}
    _, stats = run(distiller, vars, view)
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
    assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (stats, vars.stats)), strict=True))
    value, still = run(distiller, vars, view, train=False)
    jax.tree.map(np.testing.assert_array_equal, still, vars.stats)
    assert not np.allclose(value, run(distiller, vars, view)[0])  # running statistics, not the batch's


@pytest.mark.parametrize("kwargs", [{"stage": 1}, {"stage": 3}, {"depth": 3}])
def test_stage_and_depth(setting, kwargs):
    view, context = setting
    distiller, vars = with_vars(methods.fitnet(**kwargs), context)
    student, _ = regressed(vars, view, **kwargs)
    teacher = view.teachers[0].stages[kwargs.get("stage", 2)]
    value = run(distiller, vars, view)[0]
    np.testing.assert_allclose(value, 100 * losses.fitnet(student=student, teacher=teacher), rtol=1e-6)
    assert len([name for name in vars.params["regressor"] if name.startswith("conv")]) == kwargs.get("depth", 1)


def test_the_gradient_reaches_student_teacher_and_regressor(setting, fit):
    """Nothing is detached here: a refiner that learns may stand before."""
    view, _ = setting
    distiller, vars = fit

    def loss(params, student, teacher):
        changed = view._replace(
            student=view.student._replace(stages=student), teachers=(view.teachers[0]._replace(stages=teacher),)
        )
        return run(distiller, vars._replace(params=params), changed)[0].mean()

    arguments = (vars.params, view.student.stages, view.teachers[0].stages)
    params, student, teacher = jax.jit(jax.grad(loss, (0, 1, 2)))(*arguments)
    regressor = params["regressor"]
    assert (
        float(jnp.abs(regressor["conv0"]["kernel"]).max()) > 1e-3
        and float(jnp.abs(regressor["bn0"]["scale"]).max()) > 1e-3
    )
    for grads in (student, teacher):
        assert [bool(g.any()) for g in grads] == [False, False, True, False]


# criteria on all stages: the published weight, the loss, and options of both
ON_STAGES = {
    "at": (1000, losses.at, {"p": 3}),
    "nst": (50, features.nst, {}),
    "kdsvd": (1, svd.kdsvd, {"k": 2}),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) if n == "kdsvd" else n for n in ON_STAGES])
def test_all_stages_but_the_stem_are_compared(setting, name):
    view, context = setting
    weight, loss, options = ON_STAGES[name]
    distiller, vars = with_vars(getattr(methods, name)(), context)
    assert vars == NO_VARS
    both = {"students": view.student.stages[1:], "teachers": view.teachers[0].stages[1:]}
    value, stats = run(distiller, vars, view)
    assert value.shape == (8,) and stats == {} and value.all()
    np.testing.assert_allclose(value, weight * loss(**both), rtol=1e-5)
    other = run(*with_vars(getattr(methods, name)(weight=2.0, **options), context), view)[0]
    np.testing.assert_allclose(other, 2 * loss(**both, **options), rtol=1e-5)


@pytest.mark.parametrize("name", ON_STAGES)
def test_stages_are_aligned_from_the_output_side(setting, name):
    view, _ = setting
    weight, loss, _ = ON_STAGES[name]
    for cut in ("student", "teacher"):
        less, whole = view.student.stages, view.teachers[0].stages
        pair = {"student": less[1:], "teacher": whole} if cut == "student" else {"student": less, "teacher": whole[1:]}
        shorter = view._replace(
            student=view.student._replace(stages=pair["student"]),
            teachers=(view.teachers[0]._replace(stages=pair["teacher"]),),
        )
        expected = weight * loss(students=less[2:], teachers=whole[2:])
        np.testing.assert_allclose(run(getattr(methods, name)(), NO_VARS, shorter)[0], expected, rtol=1e-5)


def test_the_first_of_several_teachers_is_read(setting, fit):
    view, context = setting
    other = Outputs(tuple(s[..., :3] + 1 for s in view.teachers[0].stages), None, None, view.teachers[0].logits)
    several = view._replace(teachers=(view.teachers[0], other))
    for distiller, vars in (fit, *(with_vars(getattr(methods, name)(), context) for name in ON_STAGES)):
        np.testing.assert_array_equal(run(distiller, vars, several)[0], run(distiller, vars, view)[0])


def focused(distiller, vars, view, mask):
    return run(distiller, vars, view._replace(spatial_mask=mask))[0]


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("name", ["fitnet", *ON_STAGES])
def test_focus_of_ones_is_none(setting, name, size):
    distiller, vars = with_vars(getattr(methods, name)(), setting[1])
    plain = run(distiller, vars, setting[0])[0]
    ones, zeros = jnp.ones((8, size, size, 1)), jnp.zeros((8, size, size, 1))
    np.testing.assert_array_equal(focused(distiller, vars, setting[0], ones), plain)
    assert not focused(distiller, vars, setting[0], zeros).any()


def spread(mask, size):
    """By hand: 8 to `size` by the largest of a block, or repeated."""
    n = mask.shape[1]
    if size >= n:
        return np.repeat(np.repeat(mask, size // n, 1), size // n, 2)
    return mask.reshape(len(mask), size, n // size, size, n // size, 1).max((2, 4))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_focus_masks_both_maps(setting, fit, rng, size):
    """In the size of the stage, whatever size it was given in."""
    view, context = setting
    mask = np.float32(rng.random((8, size, size, 1)) < 0.3) * rng.integers(1, 4, (8, size, size, 1)).astype(np.float32)
    student, teacher = regressed(fit[1], view)[0], view.teachers[0].stages[2]
    m = spread(mask, 4)
    assert 0 < (m > 0).mean() < 1
    expected = 100 * ((np.float64(student) * m - np.float64(teacher) * m) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(focused(*fit, view, jnp.asarray(mask)), expected, rtol=1e-5)
    looked = [[f * spread(mask, f.shape[1]) for f in n.stages[1:]] for n in (view.student, view.teachers[0])]
    for name, (weight, loss, _) in ON_STAGES.items():
        expected = weight * loss(students=looked[0], teachers=looked[1])
        ours = focused(*with_vars(getattr(methods, name)(), context), view, jnp.asarray(mask))
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_focus_of_odd_size(setting, fit):
    """3 to 4 takes the nearest, 5 to 4 the largest of overlapping windows."""
    view, _ = setting
    student, teacher = regressed(fit[1], view)[0], view.teachers[0].stages[2]
    for size, cell, rows in ((3, 1, [1, 2]), (5, 1, [0, 1]), (5, 0, [0])):
        mask, m = np.zeros((8, size, size, 1), np.float32), np.zeros((1, 4, 1, 1), np.float32)
        mask[:, cell], m[:, rows] = 1, 1
        expected = 100 * ((np.asarray(student) * m - np.asarray(teacher) * m) ** 2).mean((1, 2, 3))
        np.testing.assert_allclose(focused(*fit, view, mask), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["fitnet", *ON_STAGES])
def test_weights(setting, name):
    view, context = setting
    factory = getattr(methods, name)
    one = run(*with_vars(factory(weight=1.0), context), view)[0]
    scheduled = factory(weight=lambda step: 3.0 + step)
    np.testing.assert_allclose(run(*with_vars(scheduled, context), view)[0], 3 * one, rtol=1e-6)
    off = factory(weight=0.0)
    assert off.init(None, None) == NO_VARS and off.needs == frozenset()
    assert off.apply(NO_VARS, view, None, True) == (view, {}, {}, {})
    assert factory().needs == {"teacher.stages"} and methods.CRITERIA[name] is factory


@pytest.mark.parametrize(("make", "message"), [
    (lambda: methods.fitnet(stage=-1), "fitnet: stage must be at least 0, got -1"),
    (lambda: methods.fitnet(depth=0), "fitnet: depth must be at least 1, got 0"),
    (lambda: methods.at(p=0), "at: p must be at least 1, got 0"),
    (lambda: methods.kdsvd(k=0), "kdsvd: k must be at least 1, got 0"),
])  # fmt: skip
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def with_stages(context, student, teacher):
    """InitContext of networks with other stages."""
    view = context.view_shapes
    changed = view._replace(
        student=view.student._replace(stages=student), teachers=(view.teachers[0]._replace(stages=teacher),)
    )
    return context._replace(view_shapes=changed)


def test_stages_that_are_not_there(setting):
    context = setting[1]
    key, all_of = jax.random.key(0), context.view_shapes.student.stages
    for student, teacher, stage in ((all_of, all_of[:2], 2), (all_of[:3], all_of, 3)):
        message = f"fitnet: no stage {stage}: the student has {len(student)}, the teacher {len(teacher)}"
        with pytest.raises(ValueError, match=message):
            methods.fitnet(stage=stage).init(key, with_stages(context, student, teacher))
    with pytest.raises(ValueError, match="at: no stage 1: the student has 1, the teacher 4"):
        methods.at().init(key, with_stages(context, all_of[:1], all_of))
    with pytest.raises(ValueError, match="nst: no stage 1: the student has 1, the teacher 4"):
        methods.nst().init(key, with_stages(context, all_of[:1], all_of))
    with pytest.raises(ValueError, match="kdsvd: no stage 2: the student has 4, the teacher 2"):
        methods.kdsvd().init(key, with_stages(context, all_of, all_of[:2]))
    with pytest.raises(ValueError, match="kdsvd: k must be a whole number from 1 to 2, what the smallest map has"):
        methods.kdsvd(k=3).init(key, context)
    with pytest.raises(ValueError, match="no convolution takes a map of 4x4x8 to 5x9x5"):
        uneven = (*all_of[:2], jax.ShapeDtypeStruct((8, 5, 9, 5), jnp.float32))
        methods.fitnet().init(key, with_stages(context, all_of, uneven))


def facts_of(teacher, student):
    networks = [models.create(name, 100) for name in (student, teacher)]
    return kd_jax.make_init_context(networks[0], (networks[1],), image_shape=(32, 32, 3), batch_size=2)


def test_as_many_parameters_as_published():
    """16.8 K for resnet32x4 and resnet8x4: 128 x 128 weights, 128 biases, BatchNorm."""
    context = facts_of("resnet32x4", "resnet8x4")
    vars = jax.eval_shape(lambda: methods.fitnet().init(jax.random.key(0), context))
    assert sum(p.size for p in jax.tree.leaves(vars.params)) == 128 * 128 + 3 * 128


@pytest.mark.parametrize(
    "pair",
    [
        p
        if p in {("ResNet50", "MobileNetV2"), ("resnet32x4", "MobileNetV2")}
        else pytest.param(p, marks=pytest.mark.full)
        for p in pairs.PAIRS
    ],
    ids="-".join,
)
def test_every_pair_of_the_tables_traces(pair):
    context = facts_of(*pair)
    names = ("fitnet", *ON_STAGES)
    chain = methods.chain(**{name: getattr(methods, name)() for name in names})

    def step(view):
        return chain.apply(chain.init(jax.random.key(0), context), view, jax.random.key(1), True)[1]

    terms = jax.eval_shape(step, context.view_shapes)
    assert {name: value.shape for name, value in terms.items()} == dict.fromkeys(names, (2,))
