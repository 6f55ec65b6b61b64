"""EA and SDD around criteria, and NormKD in front of them: values, what they reduce to, what they refuse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses, methods
from kd_jax.methods.base import NO_VARS
from kd_jax.typing import Match, Outputs
from tests.conftest import make_view
from tests.losses.common_input import LABELLED, LABELS, PAIR, STUDENT, TEACHER
from tests.methods.test_raw_teacher import value

HOSTS = {"kd": methods.kd, "dkd": methods.dkd, "nkd": methods.nkd}


def refined_view():
    """What matches is another teacher than the raw one, at T = 2."""
    view = make_view(STUDENT, TEACHER, LABELS)
    return view._replace(match=view.match._replace(teacher=jnp.asarray(TEACHER[:, ::-1]), temperature=2.0))


def test_ea_is_the_published_codes(x64):
    view = make_view(STUDENT, TEACHER, LABELS)
    np.testing.assert_allclose(value(methods.ea_kd(), view).mean(), 2.42629001, atol=6e-9)
    np.testing.assert_allclose(value(methods.ea_kd(bound="classes"), view).mean(), 1.61805515, atol=6e-9)
    np.testing.assert_allclose(value(methods.ea_dkd(), view).mean(), 23.13777728, atol=6e-8)


@pytest.mark.parametrize("name", HOSTS)
def test_ea_weighs_by_raw_logits_and_is_detached(x64, name):
    view, host = refined_view(), HOSTS[name]()
    weight = losses.entropy_weight(**PAIR, temperature=2.5)
    np.testing.assert_allclose(value(methods.ea(host, temperature=2.5), view), weight * value(host, view), rtol=1e-12)

    def mean(student, distiller, factor):
        match = view.match._replace(student=student)
        changed = view._replace(student=view.student._replace(logits=student), match=match)
        return jnp.mean(factor * distiller.apply(NO_VARS, changed, None, True)[1][""])

    slopes = [
        jax.grad(mean)(jnp.asarray(STUDENT), d, f) for d, f in ((methods.ea(host, temperature=2.5), 1), (host, weight))
    ]
    np.testing.assert_allclose(*slopes, rtol=1e-10)


def test_ea_of_a_batch_is_refused():
    with pytest.raises(
        InputError, match="ea: weighs examples, but a term of its host is one number for the whole batch"
    ):
        value(methods.ea(methods.dist()), make_view(STUDENT, TEACHER, LABELS))
    with pytest.raises(InputError, match="ea: bound must be log or classes, got 'K'"):
        methods.ea_kd(bound="K")
    with pytest.raises(InputError, match="ea: temperature must be a finite number above 0, got 0"):
        methods.ea_dkd(entropy_temperature=0.0)


def mapped_view(rng, side=8, batch=6, classes=5):
    """Both networks' class activation maps, whose means are their logits."""
    cams = rng.normal(0, 2, size=(2, batch, side, side, classes))
    student, teacher = (Outputs((), None, None, cam.mean((1, 2)), cam) for cam in jnp.asarray(cams))
    view = make_view(student.logits, teacher.logits, np.arange(batch) % classes)
    return view._replace(student=student, teachers=(teacher,))


@pytest.mark.parametrize("name", HOSTS)
def test_sdd_on_the_whole_image_is_its_host(rng, x64, name):
    view, host = mapped_view(rng), HOSTS[name]()
    np.testing.assert_allclose(value(methods.sdd(host, scales=(1,)), view), value(host, view), rtol=1e-12)


@pytest.mark.parametrize("name", HOSTS)
def test_sdd_is_a_weighted_mean_over_regions(rng, x64, name):
    """By loops; the whole image is the refined pair at the refiner's temperature, regions are raw."""
    view, host = mapped_view(rng), HOSTS[name]()
    match = view.match._replace(teacher=view.match.teacher[:, ::-1], temperature=2.0)
    view = view._replace(match=match)
    total = value(host, view)
    on_whole = np.argmax(view.teachers[0].logits, -1) == view.labels
    weights = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pair = [
            net.cam[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean((1, 2)) for net in (view.student, view.teachers[0])
        ]
        student, teacher = (Outputs((), None, None, z) for z in pair)
        region = view._replace(student=student, teachers=(teacher,), match=Match(*pair, 2.0))
        weights.append(np.where((np.argmax(pair[1], -1) == view.labels) == on_whole, 1.0, 3.0))
        total = total + weights[-1] * value(host, region)
    assert 1 < np.mean(weights) < 3
    np.testing.assert_allclose(value(methods.sdd(host, inconsistent=3.0), view), total / 5, rtol=1e-10)


@pytest.mark.parametrize("refiner", [methods.lskd(), methods.normkd()], ids=["lskd", "normkd"])
@pytest.mark.parametrize("name", HOSTS)
def test_sdd_normalises_regions_as_the_pair_is(rng, x64, name, refiner):
    view, host = mapped_view(rng), HOSTS[name]()
    refined = refiner.apply(NO_VARS, view, None, True)[0]
    sdd = value(methods.sdd(host, scales=(2,), inconsistent=1.0), refined)
    total = 0.0
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        student, teacher = (
            net.cam[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean((1, 2)) for net in (view.student, view.teachers[0])
        )
        ours, theirs = (methods.comparable(refined, z) for z in (student, teacher))
        region = make_view(student, teacher, view.labels)
        total += value(host, region._replace(match=refined.match._replace(student=ours, teacher=theirs)))
    np.testing.assert_allclose(sdd, total / 4, rtol=1e-10)


def test_sdd_takes_a_temperature_for_each_example(rng, x64):
    view, kd = mapped_view(rng), methods.kd()
    each = jnp.linspace(1.0, 3.0, 6)[:, None]
    sdd = methods.sdd(kd, scales=(1, 2, 4))
    one_by_one = [
        value(sdd, view._replace(match=view.match._replace(temperature=float(t))))[i] for i, t in enumerate(each[:, 0])
    ]
    together = value(sdd, view._replace(match=view.match._replace(temperature=each)))
    np.testing.assert_allclose(together, one_by_one, rtol=1e-10)


def test_what_sdd_refuses(rng):
    with pytest.raises(InputError, match="sdd: weighs examples, but a term of its host is one number for the whole"):
        value(methods.sdd(methods.dist()), mapped_view(rng))
    for scales in ((), (3,), (1, 8)):
        with pytest.raises(InputError, match="sdd: scales must be numbers out of 1, 2, 4, got"):
            methods.sdd_kd(scales=scales)
    with pytest.raises(InputError, match="sdd: inconsistent must be a finite number above 0, got 0"):
        methods.sdd_nkd(inconsistent=0.0)


def normalized(view, scale, criterion=None):
    refined = methods.normkd(scale=scale).apply(NO_VARS, view, None, True)[0]
    return (criterion or methods.kd()).apply(NO_VARS, refined, None, True)[1][""]


def test_normkd_is_the_published_codes(x64):
    view = make_view(STUDENT, TEACHER, LABELS)
    np.testing.assert_allclose(normalized(view, 1.0), [0.44997081, 3.65669008, 2.62854705], atol=1e-6)
    np.testing.assert_allclose(normalized(view, 2.0), [0.46399966, 3.63427701, 2.97813291], atol=1e-6)
    dkd = methods.dkd(alpha=4.0, beta=5.0)
    np.testing.assert_allclose(
        normalized(view, 2.0, dkd).mean(), 14.17873645, atol=5e-6
    )  # ours adds 1e-7 to a deviation


def test_normkd_is_lskd_weighed_by_the_teachers_variance(x64):
    lskd = methods.lskd(temperature=2.0).apply(NO_VARS, make_view(STUDENT, TEACHER, LABELS), None, True)[0]
    weight = losses.deviation(TEACHER)[:, 0] ** 2
    for criterion in (methods.kd(), methods.dkd(alpha=2.0, beta=3.0)):
        theirs = weight * criterion.apply(NO_VARS, lskd, None, True)[1][""]
        np.testing.assert_allclose(normalized(make_view(STUDENT, TEACHER, LABELS), 2.0, criterion), theirs, rtol=1e-6)


def test_normkd_sees_no_scale_and_no_shift(x64):
    plain = normalized(make_view(STUDENT, TEACHER, LABELS), 2.0)
    np.testing.assert_allclose(normalized(make_view(3 * STUDENT + 1, TEACHER - 2, LABELS), 2.0), plain, rtol=1e-6)
    view = make_view(STUDENT, TEACHER, LABELS)
    refined = view._replace(match=view.match._replace(teacher=5 * view.match.teacher, temperature=9.0))
    np.testing.assert_allclose(normalized(refined, 2.0), plain, rtol=1e-6)  # nor how much a refiner has scaled
    np.testing.assert_allclose(normalized(make_view(STUDENT, 2 * TEACHER, LABELS), 2.0), 4 * plain, rtol=1e-6)


def test_normkd_of_equal_logits_is_finite():
    def loss(student, teacher):
        return normalized(make_view(student, teacher, LABELS), 2.0).sum()

    flat = jnp.zeros((3, 5))
    for pair in ((flat, jnp.float32(TEACHER)), (jnp.float32(STUDENT), flat), (flat, flat)):
        assert all(np.isfinite(x).all() for x in jax.value_and_grad(loss)(*pair))


def test_where_normkd_cannot_be(x64):
    with pytest.raises(
        InputError, match="dist: compares a class over the batch, at one temperature; a refiner set one"
    ):
        normalized(make_view(STUDENT, TEACHER, LABELS), 2.0, methods.dist())
    with pytest.raises(InputError, match="normkd: scale must be a finite number above 0, got -1"):
        methods.normkd(scale=-1.0)


LOSSES = {
    "kd": losses.kd, "dkd": losses.dkd, "nkd": losses.nkd, "rld": losses.rld, "alpha_beta": partial(
        losses.alpha_beta, alpha=0.8, beta=0.3),
    "crld": partial(losses.crld, student_strong=STUDENT, teacher_strong=TEACHER, weak_confidence=0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_a_temperature_for_each_example(x64, name):
    given = LABELLED if name in ("dkd", "nkd", "rld") else PAIR
    each = np.array([[1.5], [2.0], [5.0]])
    one_by_one = [LOSSES[name](**given, temperature=float(t))[i] for i, t in enumerate(each[:, 0])]
    np.testing.assert_allclose(LOSSES[name](**given, temperature=each), one_by_one, rtol=1e-12)
