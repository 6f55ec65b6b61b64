"""SoKD's refiners: off is the host, wiring, statistics, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import methods, models
from kd_jax.layers import augment, policy
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.dafa import usage
from tests.tiny import TinyNet

SHAPE, BATCH = (8, 8, 3), 6
TEACHER, STUDENT = (TinyNet(widths=(w, 8), num_classes=5) for w in (8, 4))


@pytest.fixture(scope="module")
def setting():
    image = jax.random.normal(jax.random.key(1), (BATCH, *SHAPE))
    init = jax.jit(models.init, static_argnums=0)
    teacher, student = (init(m, jax.random.key(i), image) for i, m in enumerate((TEACHER, STUDENT)))
    context = kd_jax.make_init_context(STUDENT, (TEACHER,), image_shape=SHAPE, batch_size=BATCH)
    apply = jax.jit(models.apply, static_argnums=0)
    outputs = [apply(m, v, image)[0] for m, v in ((TEACHER, teacher), (STUDENT, student))]
    view = context.view_shapes._replace(
        image=image, teachers=(outputs[0],), student=outputs[1], labels=jnp.arange(BATCH) % 5, step=jnp.int32(0)
    )
    return view, context


def init_vars(distiller, context):
    return jax.jit(lambda: distiller.init(jax.random.key(2), context))()


def fixed(**values):
    """A policy with the same value for every pair."""
    start = policy.init(jax.random.key(0), estimator="relaxed")
    return {name: jnp.full_like(leaf, values.get(name, 0.5)) for name, leaf in start.items()}


def test_probability_zero_is_the_identity(setting):
    view, _ = setting
    distiller = methods.dafa()
    vars = NO_VARS._replace(policy=fixed(probability=0.0))
    run = jax.jit(lambda key: distiller.apply(vars, view, key, True)[0].teachers)
    for seed in range(20):
        jax.tree.map(np.testing.assert_array_equal, run(jax.random.key(seed)), view.teachers)


@pytest.mark.parametrize("stages, same", [((1,), "1011"), ((1, 3), "1010"), ((), "1000")])
def test_only_the_named_stages_of_the_teacher_change(setting, stages, same):
    view, _ = setting
    vars = NO_VARS._replace(policy=fixed(probability=1.0, magnitude=1.0))
    refined, terms, logs, stats = methods.dafa(stages=stages).apply(vars, view, jax.random.key(0), True)
    for part in ("stages", "preacts"):
        pairs = zip(getattr(refined.teachers[0], part), getattr(view.teachers[0], part), strict=True)
        assert [np.array_equal(a, b) for a, b in pairs] == [x == "1" for x in same]
    assert terms == {} == stats
    jax.tree.map(np.testing.assert_array_equal, refined.student, view.student)
    assert refined.teachers[0].logits is view.teachers[0].logits
    assert set(logs) == {f"{a}/{b}" for a in ("use", "magnitude") for b in augment.OPERATIONS}


@pytest.mark.parametrize("given", [{}, None])
def test_without_policy_or_out_of_training_nothing_happens(setting, given):
    view, context = setting
    distiller = methods.dafa()
    vars = init_vars(distiller, context)
    vars = vars if given is None else vars._replace(policy=given)
    assert distiller.apply(vars, view, jax.random.key(0), given is not None)[0] is view


def test_the_host_reads_the_refined_map_and_the_focus(setting):
    """FitNet's value by hand, from the view that DAFA and DAM leave."""
    view, context = setting
    chain = methods.chain(dam=methods.dam(areas=2), dafa=methods.dafa(), fit=methods.fitnet(weight=1.0))
    vars, key = init_vars(chain, context), jax.random.key(4)
    refined, terms, _, _ = chain.apply(vars, view, key, True)
    assert refined.spatial_mask is not None and float(refined.spatial_mask.mean()) < 1
    alone = methods.chain(fit=methods.fitnet(weight=1.0))
    fit_vars = vars._replace(params={"fit": vars.params["fit"]}, stats={"fit": vars.stats["fit"]}, policy={})
    host = alone.apply(fit_vars, refined, key, True)[1]["fit"]
    np.testing.assert_array_equal(terms["fit"], host)
    plain = alone.apply(fit_vars, view, key, True)[1]["fit"]
    assert not np.allclose(plain, host)


def test_all_off_is_the_host_alone(setting):
    """Weight 0 and probability 0 in a whole step: the same student, bit for bit."""
    view, context = setting
    tx, batch = optax.sgd(0.1, momentum=0.9), {"image": view.image, "label": view.labels}

    def train(chain, *policies):
        """The state after three steps, one for every policy."""
        parts = {"student": STUDENT, "distiller": chain, "tx": tx}
        start = jax.jit(lambda: kd_jax.init_state(jax.random.key(0), context=context, **parts))()
        step = jax.jit(lambda s: kd_jax.train_step(s, view.teachers, batch, jax.random.key(1), **parts)[0])
        for values in policies:
            state = start._replace(policy=values)
            for _ in range(3):
                state = step(state)
            yield state

    host = {"ce": methods.ce(), "fit": methods.fitnet()}
    (alone,) = train(methods.chain(**host), {})
    off = methods.chain(dam=methods.dam(weight=0.0), dafa=methods.dafa(search_epochs=0), **host)
    policies = fixed(probability=0.0), fixed(probability=1.0, magnitude=1.0)
    refined, on = train(off, *({"dafa": values} for values in policies))
    jax.tree.map(np.testing.assert_array_equal, alone.params, refined.params)
    assert not np.array_equal(on.params["student"]["conv1"]["kernel"], alone.params["student"]["conv1"]["kernel"])


def test_dams_term_teaches_student_regressor_and_heads(setting):
    view, context = setting
    distiller = methods.dam(weight=1.0)
    vars = init_vars(distiller, context)

    def loss(params, stage):
        student = view.student._replace(stages=(*view.student.stages[:2], stage, view.student.stages[3]))
        refined, terms, _, _ = distiller.apply(vars._replace(params=params), view._replace(student=student), None, True)
        return jnp.mean(terms[""]) + 0 * jnp.sum(refined.spatial_mask)

    grads, stage = jax.jit(jax.grad(loss, argnums=(0, 1)))(vars.params, view.student.stages[2])
    assert float(jnp.abs(stage).max()) > 0
    for part in ("regressor", "heads"):
        assert float(optax.tree.norm(grads[part])) > 0

    @jax.jit
    def applied():
        refined, *others = distiller.apply(vars, view, None, True)
        return refined.spatial_mask, *others

    mask, terms, logs, stats = applied()
    assert set(logs) == {"share", "heat_std"} and terms[""].shape == (BATCH,) and mask.shape == (BATCH, 4, 4, 1)
    assert not np.array_equal(stats["regressor"]["bn0"]["mean"], vars.stats["regressor"]["bn0"]["mean"])


def test_dams_maps_are_its_boxes(setting):
    view, context = setting
    chain = methods.chain(dam=methods.dam(areas=2), fit=methods.fitnet())
    maps = chain.visualizations(init_vars(chain, context), view)
    assert set(maps) == {"dam/student", "dam/teacher"}
    assert all(m.shape == (BATCH, 4, 4) and 1 <= float(m.max()) <= 2 for m in maps.values())
    assert methods.chain(fit=methods.fitnet()).visualizations is None


def test_usage():
    policy_vars = fixed(probability=0.5, magnitude=0.25)
    logs = usage({**policy_vars, "weight": jnp.where(jnp.arange(36) == 0, 50.0, 0.0)})  # the pair ShearX, ShearY
    assert float(logs["use/ShearX"]) == pytest.approx(0.5) and float(logs["use/Rotate"]) == pytest.approx(0, abs=1e-6)
    assert float(logs["magnitude/ShearX"]) == pytest.approx(0.25)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: methods.dafa(stages=(2, -1)), r"dafa: stages must be whole numbers, at least 0, got \(2, -1\)"),
    (lambda: methods.dafa(stages=(1.0,)), r"dafa: stages must be whole numbers, at least 0, got \(1.0,\)"),
    (lambda: methods.dafa(stages="1"), "dafa: stages must be whole numbers, at least 0, got '1'"),
    (lambda: methods.dafa(estimator="reinforce"), "dafa: estimator must be relaxed or relax, got 'reinforce'"),
    (lambda: methods.dafa(holdout=1.0), "dafa: holdout must be at least 0 and below 1"),
    (lambda: methods.dafa(outer="train"), "dafa: outer must be one of plain, refined, consistency, got 'train'"),
    (lambda: methods.dafa(every=0), "dafa: every must be at least 1"),
    (lambda: methods.dam(overlap="or"), "dam: overlap must be clip or sum"),
    (lambda: methods.dam(areas=0), "dam: areas must be at least 1"),
])  # fmt: skip
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_stage_that_is_not_there(setting):
    _, context = setting
    with pytest.raises(ValueError, match="dafa: no stage 4: the teacher has 4$"):
        methods.dafa(stages=(1, 4)).init(jax.random.key(0), context)
    with pytest.raises(ValueError, match="dam: no stage 4: the student has 4, the teacher 4$"):
        methods.dam(stage=4).init(jax.random.key(0), context)


@pytest.mark.parametrize("published", [False, True])
def test_where_a_policy_starts(setting, published):
    start = methods.dafa(published=published).init(jax.random.key(0), setting[1]).policy["magnitude"]
    np.testing.assert_array_equal(start, augment.first_magnitudes(published=published))
    drawn = methods.dafa(published=published, start="random").init(jax.random.key(0), setting[1]).policy["magnitude"]
    assert len(np.unique(drawn)) == 72


def test_no_search_without_epochs():
    assert methods.dafa(search_epochs=0).search is None and methods.dafa().search.score is not None
    assert methods.dafa(estimator="relaxed").search.score is None
