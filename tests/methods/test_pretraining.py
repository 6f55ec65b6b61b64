"""AB and FSP as criteria, and what is true of AB, FSP and FT alike: gradients, stages, focus, weights, refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.engine.state import make_init_context
from kd_jax.losses import pretraining as losses
from kd_jax.methods import ab, fsp, ft, paraphraser
from kd_jax.methods.base import NO_VARS, chain
from kd_jax.methods.stages import mask_for
from kd_jax.typing import Outputs
from tests.methods.pretraining import (
    HIGHER,
    TEACHER,
    connected,
    equally_wide,
    expected_ft,
    falls,
    pair,
    with_given,
)
from tests.methods.test_vid import init_vars, run

# --- AB


def test_ab_compares_before_the_relu_behind_the_connectors(boundaries):
    view, context, distiller, vars = boundaries
    assert distiller.needs == {"student.preacts", "teacher.preacts"}
    value, stats = run(distiller, vars, view)
    students, moved = connected(vars, view)
    assert value.shape == (6,) and (value > 0).all()
    teachers = view.teachers[0].preacts[1:]
    np.testing.assert_allclose(value, losses.ab(students=students, teachers=teachers, margin=1.0), rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), stats, moved)
    narrow = run(ab(margin=0.25), vars, view)[0]
    np.testing.assert_allclose(narrow, losses.ab(students=students, teachers=teachers, margin=0.25), rtol=1e-5)
    value, still = run(distiller, vars, view, train=False)
    jax.tree.map(np.testing.assert_array_equal, still, vars.stats)
    students = connected(vars, view, train=False)[0]
    np.testing.assert_allclose(value, losses.ab(students=students, teachers=teachers), rtol=1e-5)
    only = view._replace(  # what training hands over: nothing but what is needed
        teachers=(view.teachers[0]._replace(stages=(), pooled=None),)
    )
    np.testing.assert_array_equal(run(distiller, vars, only, train=False)[0], value)


def test_ab_has_connectors_where_shapes_differ(boundaries):
    _, _, distiller, vars = boundaries
    assert set(vars.params) == set(vars.stats) == {"stage2", "stage3"} and vars.policy == {}
    # 1 + height - height wanted, and so on
    kernels = {name: connector["conv0"]["kernel"].shape for name, connector in vars.params.items()}
    assert kernels == {"stage2": (4, 2, 3, 6), "stage3": (1, 2, 4, 8)}
    view, context = pair(TEACHER)
    vars = init_vars(distiller, context)
    assert vars == NO_VARS
    expected = losses.ab(students=view.student.preacts[1:], teachers=view.teachers[0].preacts[1:])
    np.testing.assert_allclose(run(distiller, vars, view)[0], expected, rtol=1e-5)


def test_ab_steps(boundaries):
    view, _, distiller, vars = boundaries
    falls(distiller, vars, view)


# --- FSP


def test_fsp_reads_all_stages_with_the_stem():
    view, context = equally_wide()
    vars = init_vars(fsp(), context)
    assert vars == NO_VARS and fsp().needs == {"teacher.stages"}
    value, stats = run(fsp(), vars, view)
    expected = losses.fsp(students=view.student.stages, teachers=view.teachers[0].stages)
    assert value.shape == (6,) and stats == {} and (value > 0).all()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    without_stem = losses.fsp(students=view.student.stages[1:], teachers=view.teachers[0].stages[1:])
    assert not np.allclose(value, without_stem, rtol=1e-2)


def test_fsp_refuses_other_widths():
    message = "fsp: stages of equal widths wanted, the student has 2, 4, 3, 4, the teacher 2, 4, 6, 8"
    with pytest.raises(ValueError, match=message):
        fsp().init(jax.random.key(0), pair()[1])


# --- all of them


def cases(boundaries, transfer):
    view, context = equally_wide()
    return {"ab": boundaries, "fsp": (view, context, fsp(), NO_VARS), "ft": transfer}


def test_the_gradient_reaches_student_and_teacher(boundaries, transfer):
    """Nothing is detached here; of AB's teacher only the sign is read."""
    read = {"ab": [0, 1, 1, 1], "fsp": [1, 1, 1, 1], "ft": [0, 0, 0, 1]}
    for name, (view, _, distiller, vars) in cases(boundaries, transfer).items():

        def loss(student, teacher, view=view, distiller=distiller, vars=vars):
            changed = view._replace(student=student, teachers=(teacher,))
            return distiller.apply(vars, changed, jax.random.key(2), True)[1][""].mean()

        field = "preacts" if name == "ab" else "stages"
        grads = jax.jit(jax.grad(loss, (0, 1)))(view.student, view.teachers[0])
        for seat, one in zip(("student", "teacher"), grads, strict=True):
            wanted = [0] * 4 if (name, seat) == ("ab", "teacher") else read[name]
            assert [bool(g.any()) for g in getattr(one, field)] == [bool(x) for x in wanted], (name, seat)


def test_networks_are_aligned_from_the_output_side():
    """Of widths that need no connectors."""
    for student, teacher in ((TEACHER[1:], TEACHER), (TEACHER, TEACHER[1:])):
        view, context = pair(student, teacher)
        expected = losses.ab(students=view.student.preacts[-2:], teachers=view.teachers[0].preacts[-2:])
        np.testing.assert_allclose(run(ab(), init_vars(ab(), context), view)[0], expected, rtol=1e-5)
    view, _ = equally_wide()
    for ours, theirs in (
        (view.student.stages[1:], view.teachers[0].stages),
        (view.student.stages, view.teachers[0].stages[1:]),
    ):
        shorter = view._replace(
            student=view.student._replace(stages=ours), teachers=(view.teachers[0]._replace(stages=theirs),)
        )
        expected = losses.fsp(students=ours[-3:], teachers=theirs[-3:])
        np.testing.assert_allclose(run(fsp(), NO_VARS, shorter)[0], expected, rtol=1e-5)


def test_the_first_of_several_teachers_is_read(boundaries, transfer):
    for view, _, distiller, vars in cases(boundaries, transfer).values():
        other = Outputs(tuple(s[..., :3] + 1 for s in view.teachers[0].stages), None, None, view.teachers[0].logits)
        several = view._replace(teachers=(view.teachers[0], other))
        np.testing.assert_array_equal(run(distiller, vars, several)[0], run(distiller, vars, view)[0])


def test_focus(boundaries, transfer, autoencoder):
    for name, (view, _, distiller, vars) in (cases(boundaries, transfer) | {"paraphraser": autoencoder}).items():
        plain = run(distiller, vars, view)[0]
        for mask in (1.0, 0.0):
            masked = run(distiller, vars, view._replace(spatial_mask=jnp.full((6, 4, 4, 1), mask)))[0]
            np.testing.assert_allclose(masked, mask * plain, rtol=1e-6, err_msg=name)
    mask = jnp.zeros((6, 1, 2, 1)).at[:, :, 0].set(1.0)  # the left half
    view, _, distiller, vars = boundaries
    view, teachers = view._replace(spatial_mask=mask), view.teachers[0].preacts[1:]
    masks = [mask_for(view, t) for t in teachers]
    expected = losses.ab(students=connected(vars, view)[0], teachers=teachers, masks=masks)
    np.testing.assert_allclose(run(distiller, vars, view)[0], expected, rtol=1e-5)
    view, _, distiller, vars = transfer  # 3 x 2 and 6 x 4
    split_losses = [jnp.array([1.0, 0.0])[:, None], jnp.array([1.0, 1.0, 0.0, 0.0])[:, None]]
    expected = 200 * expected_ft(vars, view, mask=split_losses)[0]
    np.testing.assert_allclose(run(distiller, vars, view._replace(spatial_mask=mask))[0], expected, rtol=1e-4)


def test_weights(boundaries, transfer, autoencoder):
    makers = {"ab": (ab, 1), "fsp": (fsp, 1), "ft": (ft, 200), "paraphraser": (paraphraser, 1)}
    for name, (view, _, distiller, vars) in (cases(boundaries, transfer) | {"paraphraser": autoencoder}).items():
        factory, weight = makers[name]
        scheduled = run(factory(weight=lambda step: 3.0 + step), vars, view)[0]
        np.testing.assert_allclose(weight * scheduled, 3 * run(distiller, vars, view)[0], rtol=1e-5)
        off = factory(weight=0.0)
        assert off.init(None, None) == NO_VARS and off.needs == frozenset()
        assert off.apply(NO_VARS, view, None, True) == (view, {}, {}, {})


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ab(margin=-1.0), "ab: margin must be a finite number, at least 0, got -1.0"),
    (lambda: ab(margin=float("inf")), "ab: margin must be a finite number"),
    (lambda: paraphraser(rate=0.0), "paraphraser: rate must be a finite number above 0, got 0.0"),
    (lambda: paraphraser(rate=float("nan")), "paraphraser: rate must be a finite number"),
    (lambda: ft(p1=0), "ft: p1 must be at least 1, got 0"),
    (lambda: ft(p2=0), "ft: p2 must be at least 1, got 0"),
])  # fmt: skip
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_networks_that_lack_something(transfer):
    key, (_, context) = jax.random.key(0), pair(HIGHER)
    shapes = context.view_shapes
    without = shapes._replace(student=shapes.student._replace(preacts=None))
    with pytest.raises(ValueError, match="ab: needs pre-activation features, which the student has not"):
        ab().init(key, context._replace(view_shapes=without))
    for factory in (ab, fsp):
        with pytest.raises(ValueError, match=f"{factory.__name__}: no stage 1: the student has 1, the teacher 4"):
            factory().init(key, pair([], TEACHER)[1])
    with pytest.raises(ValueError, match="no convolution takes a map of 4x4x3 to 5x7x6"):
        ab().init(key, pair()[1])
    bare = shapes._replace(student=shapes.student._replace(stages=()), teachers=())
    with pytest.raises(ValueError, match="paraphraser: needs a network with stages, the one in training has none"):
        paraphraser().init(key, context._replace(view_shapes=bare))
    with pytest.raises(ValueError, match="paraphraser: rate 0.2 of the last stage's width 4 leaves no factor"):
        paraphraser(rate=0.2).init(key, context)
    with pytest.raises(ValueError, match="ft: no stage 0: the student has 0, the teacher 4"):
        bare = bare._replace(teachers=shapes.teachers)
        ft().init(key, transfer[1]._replace(view_shapes=bare))


@pytest.mark.parametrize(
    ("teacher", "student"), [("resnet32x4", "resnet8x4"), ("vgg13", "vgg8"), ("wrn_40_2", "ShuffleV1")]
)
def test_pairs_of_the_tables_trace(teacher, student):
    """As many parameters as published, counted by hand."""
    networks = [models.create(name, 100) for name in (student, teacher)]
    alone = make_init_context(networks[1], (), image_shape=(32, 32, 3), batch_size=2)
    given = jax.eval_shape(lambda: paraphraser().init(jax.random.key(0), alone))
    context = make_init_context(networks[0], (networks[1],), image_shape=(32, 32, 3), batch_size=2)
    context = with_given(context, given)
    terms = {"ab": ab(), "ft": ft()} | ({} if student == "ShuffleV1" else {"fsp": fsp()})
    both = chain(**terms)

    def one(view, given):
        vars = both.init(jax.random.key(0), with_given(context, given))
        return both.apply(vars, view, jax.random.key(1), True)[1], vars

    shapes, vars = jax.eval_shape(one, context.view_shapes, given)
    assert {name: value.shape for name, value in shapes.items()} == dict.fromkeys(terms, (2,))
    if teacher == "resnet32x4":
        assert "ab" not in vars.params  # all stages of one shape
        assert models.count_parameters(given.params) == 9 * 2 * (256 * 256 + 256 * 128 + 128 * 128) + 512 + 640
        assert models.count_parameters(vars.params["ft"]) == 9 * (256 * 256 + 256 * 128 + 128 * 128) + 3 * 512
