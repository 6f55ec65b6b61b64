"""MLLD as a criterion: both views, the strong view's task loss, refiners before it, the published total, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses, methods
from kd_jax.losses import multi_level
from kd_jax.methods.base import NO_VARS, chain, everywhere
from kd_jax.methods.mlld import mlld
from kd_jax.typing import InitContext, Vars
from tests.conftest import make_view
from tests.losses.test_multi_level import case, slow_mlld

KEY = jax.random.key(0)


def view_of(logits, labels=None, step=0):
    """A view of bare logits with its strong view."""
    weak = make_view(logits["student"], logits["teacher"], labels, step)
    strong = make_view(logits["student_strong"], logits["teacher_strong"], labels, step)
    return weak._replace(extra_views={"strong": strong})


def run(distiller, view):
    return distiller.apply(NO_VARS, view, KEY, True)[1]


@pytest.fixture(scope="module")
def view():
    return view_of({seat: jnp.float32(z) for seat, z in case(1, 6, 10)[0].items()}, np.arange(6))


def test_it_compares_both_views_and_leaves_them_alone(view):
    after, terms, logs, stats = jax.jit(lambda v: mlld().apply(NO_VARS, v, KEY, True))(view)
    assert logs == {} and stats == {} and set(terms) == {"", "ce"}
    jax.tree.map(np.testing.assert_array_equal, after, view)
    strong = view.extra_views["strong"]
    pairs = view.match.student, view.match.teacher, strong.match.student, strong.match.teacher
    assert terms[""].shape == () and terms["ce"].shape == (6,)
    np.testing.assert_allclose(terms[""], 0.9 * slow_mlld(*map(np.float64, pairs)), rtol=1e-5)
    task = losses.cross_entropy(student=strong.student.logits, labels=view.labels)
    np.testing.assert_allclose(terms["ce"], 0.1 * task, rtol=1e-6)


def test_variables_and_needs(view):
    context = InitContext(jax.eval_shape(lambda: view), 10)
    assert mlld().init(KEY, context) == NO_VARS
    assert mlld().needs == {"match", "match.temperature", "view.strong", "labels"}
    assert mlld(temperature=3.0, ce_weight=0.0).needs == {"match", "view.strong"}
    with pytest.raises(ValueError, match="one shape"):  # what the loss refuses, it refuses when variables are made
        short = jax.eval_shape(lambda: view_of(case(1, 6, 10)[0] | {"student_strong": jnp.zeros((5, 10))}))
        mlld().init(KEY, InitContext(short, 10))


def test_weights(view):
    one = run(mlld(weight=1.0, ce_weight=1.0), view)
    some = run(mlld(weight=lambda step: 3.0 + step, ce_weight=0.5), view._replace(step=jnp.int32(2)))
    np.testing.assert_allclose(some[""], 5 * one[""], rtol=1e-6)
    np.testing.assert_allclose(some["ce"], 0.5 * one["ce"], rtol=1e-6)
    assert set(run(mlld(ce_weight=0.0), view)) == {""}
    off = mlld(weight=0.0)
    assert off.init(None, None) == NO_VARS and off.needs == frozenset() and run(off, view) == {}


def test_temperatures(view):
    strong = view.extra_views["strong"].match
    pairs = {"student": view.match.student, "teacher": view.match.teacher}
    pairs |= {"student_strong": strong.student, "teacher_strong": strong.teacher}
    for kwargs, loss in (
        ({"temperature": 2.0}, {"temperature": 2.0}),
        (
            {"temperatures": (2, 3.0, 5.0, 6.0), "weak_temperatures": ()},
            {"temperatures": (2, 3, 5, 6), "weak_temperatures": ()},
        ),
        ({"temperatures": (), "weak_temperatures": (1.5,)}, {"temperatures": (), "weak_temperatures": (1.5,)}),
    ):
        np.testing.assert_allclose(
            run(mlld(weight=1.0, **kwargs), view)[""], multi_level.mlld(**pairs, **loss), rtol=1e-6
        )
    hot = view._replace(match=view.match._replace(temperature=jnp.float32(7.0)))
    np.testing.assert_allclose(run(mlld(weight=1.0), hot)[""], multi_level.mlld(**pairs, temperature=7.0), rtol=1e-6)
    np.testing.assert_array_equal(run(mlld(temperature=4.0), hot)[""], run(mlld(), view)[""])


def test_refiners_change_what_kd_compares_and_not_the_gram_terms(view):
    """lskd before it standardises both views' pairs and sets T; masks, class and batch level read raw logits."""
    terms = run(chain(lskd=everywhere(methods.lskd(temperature=3.0)), mlld=mlld(weight=1.0)), view)
    standard = {
        seat: losses.standardize(z)
        for name, v in (("", view), ("_strong", view.extra_views["strong"]))
        for seat, z in ((f"student{name}", v.student.logits), (f"teacher{name}", v.teachers[0].logits))
    }
    plain = {"plain_student": view.student.logits, "plain_teacher": view.teachers[0].logits}
    both = {seat: np.float64(z) for seat, z in (standard | plain).items()}
    np.testing.assert_allclose(terms["mlld"], slow_mlld(**both, temperature=3.0), rtol=1e-5)
    np.testing.assert_array_equal(terms["mlld/ce"], run(mlld(), view)["ce"])


def test_several_teachers_are_averaged(view):
    other = view.teachers[0]._replace(logits=view.teachers[0].logits[::-1])
    mean = (view.teachers[0].logits + other.logits) / 2
    two = view._replace(teachers=(view.teachers[0], other), match=view.match._replace(teacher=mean))
    one = view._replace(teachers=(other._replace(logits=mean),), match=view.match._replace(teacher=mean))
    np.testing.assert_allclose(run(mlld(), two)[""], run(mlld(), one)[""], rtol=1e-6)


@pytest.mark.parametrize(("b", "k", "temperature", "weight", "value", "slope"), [
    (6, 10, None, 0.9, 20.630242474481783, 0.3266326383308398),
    (5, 7, None, 0.9, 25.220200610305085, 2.2707170796328926),
    (6, 10, 2.0, 9.0, 57.2337584574336, 1.4037216781240789),
    (5, 7, 3.0, 6.0, 48.10366010125432, -0.256925492156181),
])  # fmt: skip
def test_the_published_total(x64, b, k, temperature, weight, value, slope):
    """`ce` and `mlld`, in the last two cases behind `lskd`, against the MLKD class of the LSKD authors' repository in
    float64: the total that it trains on, and its derivative by the student's logits along a direction."""
    logits, along = case(b, b, k)
    refine = {} if temperature is None else {"lskd": everywhere(methods.lskd(temperature=temperature))}
    members = chain(**refine, ce=methods.ce(weight=0.1), mlld=mlld(weight=weight))

    def total(students):
        given = logits | dict(zip(("student", "student_strong"), students, strict=True))
        terms = members.apply(Vars({}, {}, {}), view_of(given, np.arange(b) * 3 % k), KEY, True)[1]
        return sum(jnp.mean(term) for term in terms.values())

    students = (logits["student"], logits["student_strong"])
    ours, derivative = jax.jit(lambda s, d: jax.jvp(total, (s,), (d,)))(students, along)
    np.testing.assert_allclose(ours, value, rtol=1e-12)
    np.testing.assert_allclose(derivative, slope, rtol=1e-9)


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"ce_weight": -0.1}, "mlld: ce_weight must be a finite number, at least 0, got -0.1"),
    ({"temperature": 0.0}, "mlld: temperature must be a finite number above 0, or None, got 0.0"),
    ({"temperatures": "3,5"}, "mlld: temperatures must be finite numbers above 0, got '3,5'"),
    ({"temperatures": (3.0, None)}, r"mlld: temperatures must be finite numbers above 0, got \(3.0, None\)"),
    ({"weak_temperatures": (0.0,)}, r"mlld: weak_temperatures must be finite numbers above 0, got \(0.0,\)"),
    ({"weak_temperatures": (float("inf"),)}, r"mlld: weak_temperatures must be finite numbers above 0, got \(inf,\)"),
    ({"weight": float("nan")}, "weight must be a finite number or a schedule, got nan"),
])  # fmt: skip
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mlld(**kwargs)
