"""SP, RKD, PKT and CC as criteria: wiring, CC's embeddings, focus, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import methods, models
from kd_jax.losses import relations
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.relations import cc, pkt, rkd, sp

FACTORIES = {"sp": sp, "rkd": rkd, "pkt": pkt, "cc": cc}
PUBLISHED = {"sp": 3000.0, "rkd": 1.0, "pkt": 30000.0, "cc": 0.02}


@pytest.fixture(scope="module")
def setting(nets):
    """A view of resnet8s, the teacher's twice as wide, and its context."""
    outputs = [
        jax.jit(models.apply, static_argnums=0)(nets[m], nets[v], nets["batch"]["image"])[0]
        for m, v in (("student", "sv"), ("teacher", "tv"))
    ]
    context = kd_jax.make_init_context(nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8)
    view = context.view_shapes._replace(
        student=outputs[0], teachers=(outputs[1],), labels=nets["batch"]["label"], step=jnp.int32(0)
    )
    return view, context


def with_vars(distiller, context):
    return distiller, jax.jit(lambda: distiller.init(jax.random.key(1), context))()


def run(distiller, vars, view):
    """The term; the view and the statistics must come back as they went in."""
    after, terms, logs, stats = distiller.apply(vars, view, jax.random.key(2), True)
    assert after is view and set(terms) == {""} and logs == {} and stats == vars.stats == {}
    assert terms[""].shape == ()
    return terms[""]


def embedded(vars, view):
    """CC's embeddings by hand."""
    pooled = {"student": view.student.pooled, "teacher": view.teachers[0].pooled}
    return {seat: f @ vars.params[seat]["kernel"] + vars.params[seat]["bias"] for seat, f in pooled.items()}


def expected(name, vars, view, **kwargs):
    """The published criterion, weight aside."""
    student, teacher = view.student, view.teachers[0]
    if name == "sp":
        return relations.sp(student=student.stages[-1], teacher=teacher.stages[-1])
    if name == "cc":
        return relations.cc(**embedded(vars, view))
    return getattr(relations, name)(student=student.pooled, teacher=teacher.pooled, **kwargs)


@pytest.mark.parametrize("name", FACTORIES)
def test_published_weights_and_features(setting, name):
    view, context = setting
    distiller, vars = with_vars(FACTORIES[name](), context)
    value = run(distiller, vars, view)
    np.testing.assert_allclose(value, PUBLISHED[name] * expected(name, vars, view), rtol=1e-5)
    assert value > 0 and distiller.needs == {"teacher.stages" if name == "sp" else "teacher.pooled"}
    assert name == "cc" or vars == NO_VARS
    again = run(distiller, vars, view._replace(teachers=(view.teachers[0], view.student)))
    np.testing.assert_array_equal(again, value)  # of several teachers the first is read


def test_weights_of_rkd(setting):
    view, context = setting
    default = run(*with_vars(rkd(), context), view)
    np.testing.assert_allclose(default, relations.rkd(**pooled(view), distance_weight=25, angle_weight=50), rtol=1e-6)
    for kwargs in ({"distance_weight": 2.0}, {"angle_weight": 0.0}, {"distance_weight": 1.0, "angle_weight": 2.0}):
        value = run(*with_vars(rkd(weight=3.0, **kwargs), context), view)
        np.testing.assert_allclose(value, 3 * relations.rkd(**pooled(view), **kwargs), rtol=1e-6)


def pooled(view):
    return {"student": view.student.pooled, "teacher": view.teachers[0].pooled}


@pytest.mark.parametrize("dim", [None, 5])
def test_embeddings_of_cc(setting, dim):
    """One for each network, PyTorch's default: U(-1, 1) / sqrt(width); 128 wide by default."""
    view, context = setting
    _, vars = with_vars(cc() if dim is None else cc(dim=dim), context)
    widths = {"student": view.student.pooled.shape[1], "teacher": view.teachers[0].pooled.shape[1]}
    assert vars.stats == vars.policy == {} and widths == {"student": 8, "teacher": 16}
    shapes = jax.tree.map(jnp.shape, vars.params)
    assert shapes == {seat: {"kernel": (w, dim or 128), "bias": (dim or 128,)} for seat, w in widths.items()}
    if dim is None:
        for seat, w in widths.items():
            for part in vars.params[seat].values():
                assert 0.9 < float(jnp.abs(part).max()) * w**0.5 <= 1
                np.testing.assert_allclose(jnp.std(part) * w**0.5, 3**-0.5, rtol=0.2)
        assert not np.allclose(vars.params["student"]["bias"] * 8**0.5, vars.params["teacher"]["bias"] * 16**0.5)


def test_both_embeddings_student_and_teacher_get_gradients(setting):
    view, context = setting
    distiller, vars = with_vars(cc(), context)

    def loss(params, student, teacher):
        student = view.student._replace(pooled=student)
        changed = view._replace(student=student, teachers=(view.teachers[0]._replace(pooled=teacher),))
        return run(distiller, vars._replace(params=params), changed)

    grads = jax.jit(jax.grad(loss, (0, 1, 2)))(vars.params, view.student.pooled, view.teachers[0].pooled)
    assert all(g.any() and np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ["sp", "rkd", "pkt"])
def test_the_gradient_reaches_student_and_teacher(setting, name):
    """Nothing is detached here; only the features compared are touched."""
    view, context = setting
    distiller, vars = with_vars(FACTORIES[name](), context)

    def loss(student, teacher):
        return run(distiller, vars, view._replace(student=student, teachers=(teacher,)))

    grads = jax.jit(jax.grad(loss, (0, 1)))(view.student, view.teachers[0])
    for g in grads:
        assert bool(g.pooled.any()) == (name != "sp") and not g.logits.any()
        assert [bool(s.any()) for s in g.stages] == [False, False, False, name == "sp"]


def test_focus(setting):
    """SP looks where the focus is; the others have no place in the image."""
    view, context = setting
    height = view.student.stages[-1].shape[1]
    mask = np.zeros((8, height, height, 1), np.float32)
    mask[:, 0] = 1
    masked = [np.asarray(o.stages[-1]) * mask for o in (view.student, view.teachers[0])]
    value = 3000 * relations.sp(student=masked[0], teacher=masked[1])
    looking = view._replace(spatial_mask=jnp.asarray(mask))
    np.testing.assert_allclose(run(*with_vars(sp(), context), looking), value, rtol=1e-5)
    assert not np.allclose(value, run(*with_vars(sp(), context), view), rtol=1e-3)
    np.testing.assert_array_equal(run(*with_vars(pkt(), context), looking), run(*with_vars(pkt(), context), view))


@pytest.mark.parametrize("name", FACTORIES)
def test_weights(setting, name):
    view, context = setting
    one = run(*with_vars(FACTORIES[name](weight=1.0), context), view)
    scheduled = FACTORIES[name](weight=lambda step: 3.0 + step)
    np.testing.assert_allclose(run(*with_vars(scheduled, context), view), 3 * one, rtol=1e-6)
    off = FACTORIES[name](weight=0.0)
    assert off.init(None, None) == NO_VARS and off.needs == frozenset()


def test_in_a_chain(setting):
    view, context = setting
    chain = methods.chain(**{name: factory() for name, factory in FACTORIES.items()})
    vars = jax.jit(lambda: chain.init(jax.random.key(0), context))()
    assert set(vars.params) == {"cc"} and set(vars.params["cc"]) == {"student", "teacher"}
    terms, logs, stats = jax.jit(lambda vars: chain.apply(vars, view, jax.random.key(1), True)[1:])(vars)
    assert set(terms) == set(FACTORIES) and logs == stats == {} and all(np.isfinite(t) for t in terms.values())


@pytest.mark.parametrize(("make", "message"), [
    (lambda: rkd(distance_weight=-1.0), "rkd: distance_weight must be a finite number, at least 0, got -1.0"),
    (lambda: rkd(angle_weight=float("inf")), "rkd: angle_weight must be a finite number, at least 0, got inf"),
    (lambda: cc(dim=0), "cc: dim must be at least 1, got 0"),
])  # fmt: skip
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
