"""AB, FSP and FT as criteria: wiring, their own variables, what earlier phases hand over, focus, refusals, steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax import models
from kd_jax.engine.state import abstract_state, init_state, make_init_context
from kd_jax.engine.step import teacher_outputs, train_step
from kd_jax.layers.factors import LinearRegressor, Paraphraser, encoder
from kd_jax.losses import fitnet
from kd_jax.losses import pretraining as losses
from kd_jax.methods import ab, fsp, ft, paraphraser
from kd_jax.methods.base import NO_VARS, chain
from kd_jax.methods.stages import mask_for
from kd_jax.methods.terms import ce
from kd_jax.typing import Outputs, Vars
from tests.methods.test_vid import init_vars, run, tiny

# student's and teacher's stages behind the stem: the first pair of AB's is of one shape
STUDENT, TEACHER = [(8, 8, 4), (4, 4, 3), (3, 2, 4)], [(8, 8, 4), (5, 7, 6), (6, 4, 8)]
HIGHER = [(8, 8, 4), (8, 8, 3), (6, 5, 4)]  # of the student, so that a convolution takes them to the teacher's


def paraphrased(width=8, rate=0.5, batch_norm=False, seed=5):
    """What a phase with a term `paraphraser` leaves, as if trained: nothing in it stands where it starts."""
    _, context = tiny([(4, 4, width)], [(4, 4, width)])
    vars = init_vars(paraphraser(rate=rate, batch_norm=batch_norm), context, seed)

    def shifted(x):
        return x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    return jax.tree.map(shifted, vars)


def with_given(context, given):
    return context._replace(initial_vars={"paraphraser": given})


def falls(distiller, vars, view):
    """A step of the method's parameters lowers the loss by about as much as its gradient says; every layer has one."""

    def loss(params):
        return distiller.apply(vars._replace(params=params), view, jax.random.key(2), True)[1][""].mean()

    @jax.jit
    def descend(params):
        before, grads = jax.value_and_grad(loss)(params)
        size = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
        return before, loss(jax.tree.map(lambda p, g: p - 1e-2 * before * g / size, params, grads)), grads

    before, after, grads = descend(vars.params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads)) and 0.97 * before < after < 0.995 * before
    for path, g in jax.tree.leaves_with_path(grads):
        assert path[-1].key == "bias" or float(jnp.abs(g).max()) > 1e-6, jax.tree_util.keystr(path)


def pair(student=STUDENT, teacher=TEACHER):
    return tiny(student, teacher)


@pytest.fixture(scope="module")
def boundaries():
    view, context = pair(HIGHER)
    return view, context, ab(), init_vars(ab(), context)


@pytest.fixture(scope="module")
def transfer():
    """FT, given a paraphraser."""
    view, context = pair()
    context = with_given(context, paraphrased())
    return view, context, ft(), init_vars(ft(), context)


@pytest.fixture(scope="module")
def autoencoder():
    """The paraphraser of the network in the student's seat; there is no teacher."""
    view, context = pair()
    view, shapes = view._replace(teachers=()), context.view_shapes._replace(teachers=())
    context = context._replace(view_shapes=shapes)
    return view, context, paraphraser(), init_vars(paraphraser(), context)


# --- AB


def connected(vars, view, train=True):
    out, stats = [view.student.preacts[1]], {}
    for i in (2, 3):
        variables = {"params": vars.params[f"stage{i}"], "batch_stats": vars.stats[f"stage{i}"]}
        layer = LinearRegressor(view.teachers[0].preacts[i].shape[1:])
        x, moved = layer.apply(variables, view.student.preacts[i], train, mutable=["batch_stats"])
        stats[f"stage{i}"] = moved["batch_stats"]
        out.append(x)
    return out, stats


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


def equally_wide():
    return pair([(8, 8, 4), (4, 4, 6), (3, 2, 8)])


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


# --- FT: the paraphraser


def test_paraphraser_rebuilds_the_last_stage_of_the_network_in_training(autoencoder):
    view, _, distiller, vars = autoencoder
    assert set(vars.params) == {"encoder", "decoder"} and vars.stats == {} == vars.policy
    assert distiller.needs == frozenset() and vars.params["encoder"]["conv2"]["bias"].shape == (2,)
    value, stats = run(distiller, vars, view)
    last = view.student.stages[-1]
    _, rebuilt = Paraphraser(2).apply({"params": vars.params}, last)
    assert value.shape == (6,) and stats == {}
    np.testing.assert_allclose(value, fitnet(student=rebuilt, teacher=last), rtol=1e-5)
    falls(distiller, vars, view)


def test_paraphraser_with_batch_norm_and_another_rate(autoencoder):
    view, context, _, _ = autoencoder
    distiller = paraphraser(rate=0.8, batch_norm=True)
    vars = init_vars(distiller, context)
    assert vars.params["encoder"]["conv2"]["bias"].shape == (3,) and set(vars.stats) == {"encoder", "decoder"}
    _, stats = run(distiller, vars, view)
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
    assert all(not np.array_equal(*x) for x in zip(*map(jax.tree.leaves, (stats, vars.stats)), strict=True))
    jax.tree.map(np.testing.assert_array_equal, run(distiller, vars, view, train=False)[1], vars.stats)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_paraphraser_learns_while_the_network_stays(nets, batch_norm):
    """The engine's part too: trains="method" leaves parameters and statistics of the network as they are."""
    distiller, tx = chain(paraphraser=paraphraser(batch_norm=batch_norm)), optax.adam(3e-3)
    context = make_init_context(nets["teacher"], (), image_shape=(8, 8, 3), batch_size=8)
    parts = {"student": nets["teacher"], "distiller": distiller, "tx": tx, "trains": "method"}
    state = jax.jit(partial(init_state, context=context, **parts))(jax.random.key(0))
    student, stats = nets["tv"]
    state = state._replace(params={**state.params, "student": student}, stats={**state.stats, "student": stats})
    shapes = jax.tree.map(jnp.shape, state.opt)
    assert shapes == jax.tree.map(jnp.shape, tx.init({"method": state.params["method"]}))  # no moments of the network
    go = jax.jit(partial(train_step, **parts))
    start, values = state, []
    for _ in range(30):
        state, metrics = go(state, None, nets["batch"], jax.random.key(1))
        values.append(float(metrics["terms/paraphraser"].total / metrics["terms/paraphraser"].count))
    assert np.isfinite(values).all() and values[-1] < 0.6 * values[0] and state.step == 30
    jax.tree.map(np.testing.assert_array_equal, state.student, nets["tv"])
    for (path, x), y in zip(
        jax.tree.leaves_with_path(start.params["method"]), jax.tree.leaves(state.params["method"]), strict=True
    ):
        assert path[-1].key == "bias" or not np.array_equal(x, y), jax.tree_util.keystr(path)
    logits = teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"]).logits  # eval mode was measured
    top1 = float((logits.argmax(-1) == nets["batch"]["label"]).mean())
    np.testing.assert_allclose(metrics["top1"].total / metrics["top1"].count, top1)


# --- FT: the transfer


def expected_ft(vars, view, train=True, mask=(1.0, 1.0), **powers):
    student, teacher = view.student.stages[-1], view.teachers[0].stages[-1]
    variables = {"params": vars.params["translator"], "batch_stats": vars.stats["translator"]}
    translator = encoder(student.shape[-1], 4, bool(variables["batch_stats"]))
    translated, moved = translator.apply(variables, student, train, mutable=["batch_stats"])
    frozen = vars.stats["encoder"]
    factors = encoder(teacher.shape[-1], 4, bool(frozen["batch_stats"])).apply(frozen, teacher, False)
    return losses.ft(student=mask[0] * translated, teacher=mask[1] * factors, **powers), moved


def test_ft_is_200_times_the_loss_of_factors(transfer):
    view, context, distiller, vars = transfer
    assert distiller.needs == {"teacher.stages", "given.paraphraser"}
    value, stats = run(distiller, vars, view)
    expected, moved = expected_ft(vars, view)
    assert value.shape == (6,) and (value > 0).all()
    np.testing.assert_allclose(value, 200 * expected, rtol=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), stats["translator"], moved["batch_stats"])
    powers = run(ft(p1=1, p2=2), vars, view)[0]
    np.testing.assert_allclose(powers, 200 * expected_ft(vars, view, p1=1, p2=2)[0], rtol=1e-4)
    value, still = run(distiller, vars, view, train=False)
    jax.tree.map(np.testing.assert_array_equal, still, vars.stats)
    np.testing.assert_allclose(value, 200 * expected_ft(vars, view, train=False)[0], rtol=1e-4)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_ft_keeps_the_paraphraser_and_owns_a_translator(transfer, batch_norm):
    """Also of a paraphraser with statistics, and a translator without."""
    view, context, _, _ = transfer
    given, distiller = paraphrased(batch_norm=batch_norm), ft(batch_norm=not batch_norm)
    vars = init_vars(distiller, with_given(context, given))
    assert set(vars.params) == {"translator"} and set(vars.stats) == {"translator", "encoder"} and vars.policy == {}
    kernels = [vars.params["translator"][f"conv{i}"]["kernel"].shape[2:] for i in range(3)]
    assert kernels == [(4, 4), (4, 4), (4, 4)] and bool(vars.stats["translator"]) != batch_norm
    value, stats = run(distiller, vars, view)
    np.testing.assert_allclose(value, 200 * expected_ft(vars, view)[0], rtol=1e-4)
    for held in (vars.stats["encoder"], stats["encoder"]):
        jax.tree.map(np.testing.assert_array_equal, held["params"], given.params["encoder"])
        jax.tree.map(np.testing.assert_array_equal, held["batch_stats"], given.stats.get("encoder", {}))
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)


def test_factors_are_as_many_as_the_paraphrasers(transfer):
    vars = init_vars(ft(), with_given(transfer[1], paraphrased(rate=0.25)))
    assert vars.params["translator"]["conv2"]["bias"].shape == (2,)


def test_ft_trains_beside_ce_and_the_paraphraser_stays(nets):
    """Real steps: the student and the translator move, what was given does not."""
    distiller, tx = chain(ce=ce(), ft=ft()), optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.01, momentum=0.9))
    given = {"paraphraser": paraphrased(16, batch_norm=True)}
    context = make_init_context(
        nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8, initial_vars=given
    )
    parts = {"student": nets["student"], "distiller": distiller, "tx": tx}
    state = start = jax.jit(partial(init_state, context=context, **parts))(jax.random.key(0))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)
    checked = abstract_state(context=context._replace(initial_vars=shapes), **parts)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda x: x.shape, checked)
    taught = teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"])
    go = jax.jit(partial(train_step, **parts))
    for _ in range(3):
        state, metrics = go(state, taught, nets["batch"], jax.random.key(1))
    assert set(state.params["method"]) == {"ft"} and set(state.params["method"]["ft"]) == {"translator"}
    frozen = state.stats["method"]["ft"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, frozen["params"], given["paraphraser"].params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, frozen["batch_stats"], given["paraphraser"].stats["encoder"])
    for x, y in zip(*map(jax.tree.leaves, (start.params, state.params)), strict=True):
        assert np.isfinite(y).all() and not np.array_equal(x, y)
    assert {"terms/ce", "terms/ft", "loss"} <= set(metrics) and float(metrics["terms/ft"].total) > 0


def test_ft_refuses_what_is_no_paraphraser_of_the_teacher(transfer):
    context, key = transfer[1], jax.random.key(0)
    with pytest.raises(ValueError, match='ft: there is no trained paraphraser: give init.method="phase:NAME" of a ph'):
        ft().init(key, context._replace(initial_vars={}))
    some = paraphrased()
    strange = (
        paraphrased(6),
        Vars({"regressor": some.params}, {}, {}),
        NO_VARS,
        some._replace(params=some.params["encoder"]),
    )
    for given in strange:
        message = "ft: the given paraphraser is not one of maps of width 8, the teacher's: give init.method="
        with pytest.raises(ValueError, match=message):
            ft().init(key, with_given(context, given))


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
