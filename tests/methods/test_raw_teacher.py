"""RLD, NKD, TTM, WTTM and ABKD as criteria: what they read from the pair, what from the raw teacher, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses, methods
from kd_jax.methods.base import NO_VARS
from tests.conftest import make_view
from tests.losses.common_input import LABELS, STUDENT, TEACHER

FACTORIES = {
    "rld": lambda **how: methods.rld(beta=2.0, **how),
    "nkd": methods.nkd,
    "ttm": methods.ttm,
    "wttm": methods.wttm,
    "ab_kd": lambda **how: methods.ab_kd(weight=1.0, **how),
}
REFINED = TEACHER[:, ::-1]
RAW = {"raw_teacher": TEACHER, "labels": LABELS}
# behind a refiner that has changed the teacher's side and set T = 2
EXPECTED = {
    "rld": lambda pair: losses.rld(**pair, **RAW, beta=2.0, temperature=2.0),
    "nkd": lambda pair: losses.nkd(**pair, **RAW),
    "ttm": lambda pair: losses.ttm(**pair, gamma=0.1),
    "wttm": lambda pair: losses.ttm(**pair, gamma=0.1) * losses.power_sum(teacher=TEACHER, gamma=0.1),
    "ab_kd": lambda pair: losses.alpha_beta(**pair, alpha=0.8, beta=0.3, temperature=2.0),
}


def value(distiller, view):
    after, terms, logs, stats = distiller.apply(NO_VARS, view, None, True)
    assert after is view and set(terms) == {""} and logs == stats == {}
    return terms[""]


@pytest.mark.parametrize("name", FACTORIES)
def test_the_pair_is_refined_and_the_rest_is_raw(x64, name):
    view = make_view(STUDENT, TEACHER, LABELS)
    view = view._replace(match=view.match._replace(teacher=jnp.asarray(REFINED), temperature=2.0))
    distiller = FACTORIES[name]()
    wanted = EXPECTED[name]({"student": STUDENT, "teacher": REFINED})
    np.testing.assert_allclose(jax.jit(lambda: value(distiller, view))(), wanted, rtol=1e-12)
    half = FACTORIES[name](weight=0.5) if name != "ab_kd" else methods.ab_kd(weight=0.5)
    np.testing.assert_allclose(value(half, view), 0.5 * wanted, rtol=1e-12)


@pytest.mark.parametrize("name", FACTORIES)
def test_several_teachers_are_their_mean(x64, name):
    one = make_view(STUDENT, TEACHER, LABELS)
    pair = tuple(one.teachers[0]._replace(logits=jnp.asarray(TEACHER + d)) for d in (1.5, -1.5))
    distiller = FACTORIES[name]()
    np.testing.assert_allclose(value(distiller, one), value(distiller, one._replace(teachers=pair)), rtol=1e-12)


def test_confidence_may_have_the_other_temperature(x64):
    view = make_view(STUDENT, TEACHER, LABELS)
    pair = {"student": STUDENT, "teacher": TEACHER, "labels": LABELS}
    wanted = losses.rld(**pair, temperature=3.0, confidence_temperature=3.0)
    np.testing.assert_allclose(value(methods.rld(temperature=3.0, confidence_temperature=None), view), wanted)


def test_behind_lskd_both_sides_of_rld_are_standardised(x64):
    """As its authors combine them: both alpha and beta times 9, both temperatures 2."""
    rld = methods.rld(alpha=9.0, beta=72.0, confidence_temperature=None)
    chain = methods.chain(lskd=methods.lskd(temperature=2.0), rld=rld)
    terms = chain.apply(NO_VARS, make_view(STUDENT, TEACHER, LABELS), jax.random.key(0), True)[1]
    np.testing.assert_allclose(terms["rld"].mean(), 16.73776188, atol=3e-6)  # the 1e-7 that a deviation gets


@pytest.mark.parametrize(
    "refiners", [(methods.lskd(),), (methods.normkd(),), (methods.skd(simplifier="none"), methods.lskd())]
)
def test_what_is_not_refined_is_normalised_as_the_pair_is(x64, refiners):
    """A student that says what the teacher says is as sure as it: no part of RLD is above 0."""
    right = np.argmax(TEACHER, axis=-1)
    view, rld = make_view(TEACHER, TEACHER, right), methods.rld(confidence_temperature=None)
    for refiner in refiners:
        view = refiner.apply(NO_VARS, view, jax.random.key(0), True)[0]
    np.testing.assert_allclose(value(rld, view), 0.0, atol=1e-12)
    np.testing.assert_allclose(methods.comparable(view, TEACHER), view.match.student, rtol=1e-12)


def test_none_takes_the_refiners_temperature(x64):
    view = make_view(STUDENT, TEACHER, LABELS)
    view = view._replace(match=view.match._replace(temperature=2.0))
    wanted = losses.nkd(student=STUDENT, teacher=TEACHER, labels=LABELS, temperature=2.0)
    np.testing.assert_allclose(value(methods.nkd(temperature=None), view), wanted)
    assert "match.temperature" in methods.nkd(temperature=None).needs - methods.nkd().needs


@pytest.mark.parametrize(("make", "message"), [
    (lambda: methods.rld(temperature=0.0), "rld: temperature must be a finite number above 0, or None, got 0.0"),
    (lambda: methods.rld(confidence_temperature=-1.0), "rld: confidence_temperature must be a finite number above 0"),
    (lambda: methods.nkd(temperature=float("inf")), "nkd: temperature must be a finite number above 0, or None"),
    (lambda: methods.ttm(gamma=0.0), "ttm: gamma must be a finite number above 0, got 0.0"),
    (lambda: methods.wttm(gamma=-1.0), "wttm: gamma must be a finite number above 0"),
    (lambda: methods.ab_kd(alpha=-0.1), "ab_kd: alpha must be a finite number, at least 0, got -0.1"),
])  # fmt: skip
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
