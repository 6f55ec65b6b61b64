"""CRLD as a method: two pairs, refined, with the raw teacher's confidence, and the task loss of the strong view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses, methods
from kd_jax.methods.base import NO_VARS
from tests.conftest import make_view
from tests.losses.common_input import LABELS, PAIR, STUDENT, TEACHER
from tests.losses.test_cross_view import PUBLISHED, STRONG


def both_views():
    strong = make_view(STRONG["student_strong"], STRONG["teacher_strong"], LABELS)
    return make_view(STUDENT, TEACHER, LABELS)._replace(extra_views={"strong": strong})


def terms(distiller, view):
    after, terms, logs, stats = distiller.apply(NO_VARS, view, None, True)
    assert after is view and logs == stats == {}
    return terms


def test_values_are_the_losses(x64):
    of = terms(methods.crld(weight=0.5, ce_weight=3.0, **PUBLISHED), both_views())
    np.testing.assert_allclose(of[""], 0.5 * losses.crld(**PAIR, **STRONG, **PUBLISHED), rtol=1e-12)
    ce = losses.cross_entropy(student=STRONG["student_strong"], labels=LABELS)
    np.testing.assert_allclose(of["ce"], 3 * ce, rtol=1e-12)
    both = ce.mean() + losses.cross_entropy(student=STUDENT, labels=LABELS).mean()
    np.testing.assert_allclose(both, 3.68199134, atol=6e-9)


def test_the_pairs_are_refined_and_the_confidence_is_raw(x64):
    refined = methods.chain(lskd=methods.lskd(temperature=3.0), crld=methods.crld(ce_weight=0.0, **PUBLISHED))
    pair = {name: losses.standardize(z) for name, z in (PAIR | STRONG).items()}
    raw = {"raw_teacher": TEACHER, "raw_teacher_strong": STRONG["teacher_strong"]}
    wanted = losses.crld(**pair, **raw, **PUBLISHED, temperature=3.0)
    np.testing.assert_allclose(
        refined.apply(NO_VARS, both_views(), jax.random.key(0), True)[1]["crld"], wanted, rtol=1e-6
    )


def test_examples_with_their_own_spread_in_each_view(x64):
    """Behind NormKD each network has its own spread on each view; the factor T^2 is the weak view's teacher's."""
    chain = methods.chain(
        normkd=methods.normkd(), crld=methods.crld(weak_confidence=0.0, cross=1.0, strong_confidence=0.0)
    )
    ours = chain.apply(NO_VARS, both_views(), jax.random.key(0), True)[1]["crld"]
    z = {name: jnp.asarray(x) / losses.deviation(x) for name, x in (PAIR | STRONG).items()}
    how = {"weak_confidence": 0.0, "cross": 1.0, "strong_confidence": 0.0, "temperature": 2.0}
    wanted = losses.deviation(TEACHER)[:, 0] ** 2 * losses.crld(**z, **how)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@pytest.mark.parametrize(("how", "message"), [
    ({"temperature": 0.0}, "crld: temperature must be a finite number above 0, or None, got 0"),
    ({"within": -1.0}, "crld: within must be a finite number, at least 0, got -1"),
    ({"strong_confidence": 1.5}, "crld: strong_confidence must be a share, 0 to 1, got 1.5"),
])  # fmt: skip
def test_what_is_wrong_is_named(how, message):
    with pytest.raises(InputError, match=message):
        methods.crld(**how)
