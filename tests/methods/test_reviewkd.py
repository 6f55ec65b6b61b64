"""ReviewKD as a criterion: the order of fusion, sizes read from the networks, focus, refusals, a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.layers.fusion import Fusion
from kd_jax.losses import hints
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.reviewkd import reviewkd
from tests.methods.test_vid import STUDENT, TEACHER, facts_of, init_vars, run, step, tiny


@pytest.fixture(scope="module")
def case():
    view, context = tiny()
    return view, context, reviewkd(), init_vars(reviewkd(), context)


@jax.jit
def by_hand(vars, view, students, teachers):
    """The four fusions one by one; teachers are maps that the results are compared with."""

    def fuse(name, shape, x, deeper):
        variables = {"params": vars.params[name], "batch_stats": vars.stats[name]}
        return Fusion(shape, 4).apply(variables, x, deeper, True, mutable=["batch_stats"])

    pooled = view.student.pooled.reshape(6, 1, 1, -1)
    (p, deep), moved = fuse("pooled", (1, 1, teachers[3].shape[-1]), pooled, None)
    stats = {"pooled": moved["batch_stats"]}
    (three, deep), moved = fuse("stage3", teachers[2].shape[1:], students[2], deep)
    stats["stage3"] = moved["batch_stats"]
    (two, deep), moved = fuse("stage2", teachers[1].shape[1:], students[1], deep)
    stats["stage2"] = moved["batch_stats"]
    (one, deep), moved = fuse("stage1", teachers[0].shape[1:], students[0], deep)
    stats["stage1"] = moved["batch_stats"]
    return [one, two, three, p], stats


def targets(view):
    teacher = view.teachers[0]
    return [*teacher.preacts[1:], teacher.pooled.reshape(6, 1, 1, -1)]


@pytest.mark.parametrize("preact", [False, True])
def test_fused_from_the_deepest_up(case, preact):
    view, context, _, vars = case
    distiller = reviewkd(preact=preact)
    students = (view.student.preacts if preact else view.student.stages)[1:]
    results, stats = by_hand(vars, view, students, targets(view))
    value, moved = run(distiller, vars, view)
    assert value.shape == (6,)
    np.testing.assert_allclose(value, hints.hcl(students=results, teachers=targets(view)), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), moved, stats)
    assert distiller.needs == {"teacher.preacts", "teacher.pooled"} | ({"student.preacts"} if preact else set())


def test_only_what_is_needed_is_read(case):
    view, _, distiller, vars = case
    only = view._replace(teachers=(view.teachers[0]._replace(stages=()),), student=view.student._replace(preacts=None))
    np.testing.assert_array_equal(run(distiller, vars, only)[0], run(distiller, vars, view)[0])


def test_variables(case):
    _, context, _, vars = case
    assert set(vars.params) == set(vars.stats) == {"pooled", "stage1", "stage2", "stage3"} and vars.policy == {}
    shapes = {
        name: (fusion["conv1"]["kernel"].shape, fusion["conv2"]["kernel"].shape) for name, fusion in vars.params.items()
    }
    assert shapes == {
        "pooled": ((1, 1, 4, 4), (3, 3, 4, 8)),
        "stage3": ((1, 1, 4, 4), (3, 3, 4, 8)),
        "stage2": ((1, 1, 3, 4), (3, 3, 4, 6)),
        "stage1": ((1, 1, 2, 4), (3, 3, 4, 4)),
    }
    assert [name for name, fusion in vars.params.items() if "attention" not in fusion] == ["pooled"]
    narrow = jax.eval_shape(lambda: reviewkd(max_width=3).init(jax.random.key(0), context)).params
    assert {fusion["conv1"]["kernel"].shape[-1] for fusion in narrow.values()} == {3}


def test_statistics_move_in_training_only(case):
    view, _, distiller, vars = case
    value, moved = run(distiller, vars, view)
    still_value, still = run(distiller, vars, view, train=False)
    jax.tree.map(np.testing.assert_array_equal, still, vars.stats)
    assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (moved, vars.stats)), strict=True))
    assert not np.allclose(value, still_value)


def test_a_step(case):
    view, _, distiller, vars = case
    step(distiller, vars, view)


def test_the_gradient_reaches_student_and_teacher(case):
    view, _, distiller, vars = case

    def loss(student, teacher):
        return distiller.apply(vars, view._replace(student=student, teachers=(teacher,)), None, True)[1][""].mean()

    student, teacher = jax.jit(jax.grad(loss, (0, 1)))(view.student, view.teachers[0])
    for maps in (student.stages, teacher.preacts):
        assert [bool(g.any()) for g in maps] == [False, True, True, True]
    assert bool(student.pooled.any()) and bool(teacher.pooled.any())


def test_focus_masks_the_maps_but_not_the_pooled_features(case):
    view, _, distiller, vars = case
    results, _ = by_hand(vars, view, view.student.stages[1:], targets(view))
    apply, hcl = jax.jit(lambda view: distiller.apply(vars, view, None, True)[1][""]), jax.jit(hints.hcl)
    for mask in (1.0, 0.0, 2.0):
        students, teachers = ([*(mask * x for x in maps[:3]), maps[3]] for maps in (results, targets(view)))
        value = apply(view._replace(spatial_mask=jnp.full((6, 4, 4, 1), mask)))
        np.testing.assert_allclose(value, hcl(students=students, teachers=teachers), rtol=1e-5)


def test_networks_are_aligned_from_the_output_side():
    view, context = tiny(STUDENT[1:], TEACHER)
    vars = init_vars(reviewkd(), context)
    assert set(vars.params) == {"pooled", "stage1", "stage2"}
    assert [vars.params[n]["conv2"]["kernel"].shape[-1] for n in ("stage1", "stage2")] == [6, 8]
    assert np.isfinite(run(reviewkd(), vars, view)[0]).all()
    more = jax.eval_shape(lambda: reviewkd().init(jax.random.key(0), tiny(STUDENT, TEACHER[1:])[1])).params
    assert set(more) == {"pooled", "stage1", "stage2"} and more["stage1"]["conv1"]["kernel"].shape[2] == 3


def published(inputs, outputs):
    """Of widths as the published code has them typed, the deepest last."""
    mid = min(512, inputs[-1])
    plain = sum(a * mid + 2 * mid + 9 * mid * b + 2 * b for a, b in zip(inputs, outputs, strict=True))
    return plain + (len(inputs) - 1) * 2 * (2 * mid + 1)


@pytest.mark.parametrize(("teacher", "student", "inputs", "outputs"), [
    ("resnet32x4", "resnet8x4", [64, 128, 256, 256], [64, 128, 256, 256]),
    ("resnet32x4", "ShuffleV2", [116, 232, 464, 1024], [64, 128, 256, 256]),
    ("wrn_40_2", "wrn_16_2", [32, 64, 128, 128], [32, 64, 128, 128]),
    ("ResNet50", "vgg8", [128, 256, 512, 512, 512], [256, 512, 1024, 2048, 2048]),
    ("ResNet50", "MobileNetV2", [12, 16, 48, 160, 1280], [256, 512, 1024, 2048, 2048]),
])  # fmt: skip
def test_as_many_parameters_as_published(teacher, student, inputs, outputs):
    """1.8 M for resnet32x4 and resnet8x4; and the loss traces."""
    context = facts_of(teacher, student)

    def both(view):
        vars = reviewkd().init(jax.random.key(0), context)
        return vars, reviewkd().apply(vars, view, jax.random.key(1), True)[1][""]

    vars, value = jax.eval_shape(both, context.view_shapes)
    assert models.count_parameters(vars.params) == published(inputs, outputs) and value.shape == (2,)
    if student == "resnet8x4":
        assert published(inputs, outputs) == 1808774


def test_weights(case):
    view, _, distiller, vars = case
    one = run(distiller, vars, view)[0]
    np.testing.assert_allclose(run(reviewkd(weight=lambda step: 3.0 + step), vars, view)[0], 3 * one, rtol=1e-5)
    off = reviewkd(weight=0.0)
    assert off.init(None, None) == NO_VARS and off.needs == frozenset()


def test_refusals():
    with pytest.raises(ValueError, match="reviewkd: max_width must be at least 1, got 0"):
        reviewkd(max_width=0)
    _, context = tiny()
    view = context.view_shapes
    for seat, shapes in (
        ("student", view._replace(student=view.student._replace(preacts=None))),
        ("teacher", view._replace(teachers=(view.teachers[0]._replace(preacts=None),))),
    ):
        with pytest.raises(ValueError, match=f"reviewkd: needs pre-activation features, which the {seat} has not"):
            reviewkd(preact=True).init(jax.random.key(0), context._replace(view_shapes=shapes))
    with pytest.raises(ValueError, match="reviewkd: no stage 1: the student has 1, the teacher 4"):
        reviewkd().init(jax.random.key(0), tiny([], TEACHER)[1])
