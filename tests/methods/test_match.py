"""Refiners of the pair of logits, and DIST: what they hand on, how they compose, whose gradient is turned round."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax import losses, methods
from kd_jax.losses.logits import dist as dist_loss
from kd_jax.losses.logits import standardize
from kd_jax.methods.base import NO_VARS, chain
from kd_jax.methods.match import ctkd, lskd
from kd_jax.methods.terms import dist
from kd_jax.typing import Vars
from tests.conftest import make_init_context, make_view

KEY = jax.random.key(0)


def pair(seed=0, b=8, k=10):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, (2, b, k)), jnp.float32)


def view_at(step=0):
    return make_view(*pair(), step=step)


def facts_of(steps_per_epoch=1):
    return make_init_context()._replace(steps_per_epoch=steps_per_epoch)


def run(distiller, view, vars=None, context=None):
    vars = distiller.init(KEY, context or facts_of()) if vars is None else vars
    return distiller.apply(vars, view, KEY, True)


def test_lskd_standardises_both_sides_and_sets_the_temperature():
    view = view_at()
    after, terms, logs, stats = run(lskd(temperature=3.0), view)
    for side, z in (("student", view.student.logits), ("teacher", view.teachers[0].logits)):
        ours, z = getattr(after.match, side), np.float64(z)
        slow = (z - z.mean(-1, keepdims=True)) / z.std(-1, ddof=1, keepdims=True)
        np.testing.assert_allclose(ours, slow, rtol=1e-5, atol=1e-6)
    assert after.match.temperature == 3.0 and terms == logs == stats == {}
    assert after._replace(match=view.match) == view  # the task loss reads student.logits
    assert run(lskd(), view)[0].match.temperature == 2.0
    assert lskd().init(KEY, facts_of()) == NO_VARS and lskd().needs == {"match"}


def test_lskd_before_any_criterion_on_logits():
    view = view_at()
    both = {"student": standardize(view.match.student), "teacher": standardize(view.match.teacher)}
    for criterion, value in (
        (methods.kd(), losses.kd(**both, temperature=2.0)),
        (methods.dkd(), losses.dkd(**both, labels=view.labels, temperature=2.0)),
        (dist(), dist_loss(**both, beta=2.0, gamma=2.0, temperature=2.0)),
        (methods.kd(temperature=5.0), losses.kd(**both, temperature=5.0)),
    ):
        terms = run(chain(lskd=lskd(), it=criterion), view)[1]
        np.testing.assert_allclose(terms["it"], value, rtol=1e-6)
    raw = run(chain(lskd=lskd(), ce=methods.ce()), view)[1]["ce"]
    np.testing.assert_array_equal(raw, losses.cross_entropy(student=view.student.logits, labels=view.labels))


def test_lskd_after_skd_takes_its_shift_scale_and_temperature_out():
    view = view_at()
    members = chain(skd=methods.skd(temperature=5.0), lskd=lskd())
    after = run(members, view)[0]
    target = run(methods.skd(temperature=5.0), view)[0].match.teacher
    np.testing.assert_allclose(after.match.teacher, standardize(target), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.match.teacher, standardize(view.match.teacher), rtol=1e-3, atol=1e-4)  # untrained
    assert after.match.temperature == 2.0


@pytest.mark.parametrize("kwargs", [{}, {"start": 2.0, "scale": 5.0, "init": -1.5}])
def test_ctkd_hands_on_its_temperature(kwargs):
    view = view_at()
    after, terms, logs, stats = run(ctkd(**kwargs), view)
    options = {"start": 1.0, "scale": 20.0, "init": 1.0} | kwargs
    expected = options["start"] + options["scale"] / (1 + np.exp(-options["init"]))
    np.testing.assert_allclose(after.match.temperature, expected, rtol=1e-6)
    assert after._replace(match=view.match) == view and terms == {}
    assert after.match.student is view.match.student and after.match.teacher is view.match.teacher
    np.testing.assert_array_equal(logs["temperature"], after.match.temperature)
    assert set(logs) == {"temperature"} and ctkd().needs == {"match"}
    kd = run(chain(ctkd=ctkd(**kwargs), kd=methods.kd()), view)[1]["kd"]
    np.testing.assert_allclose(kd, losses.kd(**on(view), temperature=expected), rtol=1e-5)


def on(view):
    return {"student": view.match.student, "teacher": view.match.teacher}


def test_variables_of_ctkd():
    vars = ctkd(init=0.5).init(KEY, facts_of(781))
    assert vars == Vars({"t": jnp.float32(0.5)}, {"steps_per_epoch": jnp.float32(781)}, {})
    assert all(leaf.shape == () and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(vars))
    stats = run(ctkd(), view_at(), vars)[3]
    assert stats is vars.stats
    assert ctkd().lr_multipliers == {"": 1.0} and ctkd(rate=0.1).lr_multipliers == {"": 0.1}
    assert chain(a=ctkd(rate=0.1)).lr_multipliers == {"a": 0.1}


def test_the_gradient_of_t_is_turned_round_by_the_published_schedule():
    """CosineDecay(0, -1, 10).get_value(epoch), epochs counted from 1: of t, and of t alone."""
    steps = 3
    members = chain(ctkd=ctkd(), kd=methods.kd())
    vars = members.init(KEY, facts_of(steps))

    def loss(t, student, step):
        changed = vars._replace(params={"ctkd": {"t": t}})
        return members.apply(changed, make_view(student, pair()[1], step=step), KEY, True)[1]["kd"].mean()

    def plain(t, student):
        return losses.kd(student=student, teacher=pair()[1], temperature=1 + 20 * jax.nn.sigmoid(t)).mean()

    t, student = jnp.float32(1), pair()[0]
    both = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, (slope, others) = jax.value_and_grad(plain, (0, 1))(t, student)
    assert abs(slope) > 1e-4
    published = [-0.02447, -0.09549, -0.20611, -0.34549, -0.5, -0.65451, -0.79389, -0.90451, -0.97553, -1, -1, -1]
    for step in range(12 * steps):
        forward, (g, rest) = both(t, student, step)
        np.testing.assert_allclose(forward, value, rtol=1e-6)
        np.testing.assert_allclose(g, published[step // steps] * slope, rtol=1e-3)
        np.testing.assert_allclose(rest, others, rtol=1e-4, atol=1e-7)


def test_epochs_of_ctkd():
    def slope(step, **kwargs):
        vars = ctkd(**kwargs).init(KEY, facts_of(2))
        of = lambda t: ctkd(**kwargs).apply(vars._replace(params={"t": t}), view_at(step), KEY, True)[0]  # noqa: E731
        return float(jax.grad(lambda t: of(t).match.temperature)(jnp.float32(0))) / 5  # 20 s (1 - s) at s = 1/2

    np.testing.assert_allclose([slope(s, epochs=1) for s in (0, 1, 5)], -1, rtol=1e-6)
    np.testing.assert_allclose([slope(s, epochs=2) for s in (0, 1, 2, 3)], [-0.5, -0.5, -1, -1], rtol=1e-6)


def test_a_step_of_the_student_s_optimiser_raises_the_loss(x64):
    """t climbs; with a temperature of its own, a criterion leaves t to the weight decay."""
    for temperature, climbs in ((None, True), (4.0, False)):
        members = chain(ctkd=ctkd(epochs=1), kd=methods.kd(temperature=temperature))
        vars = members.init(KEY, facts_of())
        loss = jax.jit(lambda p, m=members, v=vars: m.apply(v._replace(params=p), view_at(), KEY, True)[1]["kd"].mean())
        update, _ = optax.sgd(1e-2).update(jax.grad(loss)(vars.params), optax.sgd(1e-2).init(vars.params))
        after = loss(optax.apply_updates(vars.params, update))
        assert (after > loss(vars.params)) == climbs


def test_gradients_of_ctkd_have_gradients(x64):
    """Forward mode and an outer objective go through the reversal."""
    members = chain(ctkd=ctkd(epochs=1), kd=methods.kd())
    vars = members.init(KEY, facts_of())

    def loss(t):
        return members.apply(vars._replace(params={"ctkd": {"t": t}}), view_at(), KEY, True)[1]["kd"].mean()

    t = jnp.float64(0.3)
    first = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(jax.jvp(loss, (t,), (1.0,))[1], first(t), rtol=1e-5)
    assert np.isfinite(jax.grad(first)(t)) and abs(jax.grad(first)(t)) > 1e-6


def test_the_later_temperature_counts():
    view = view_at()
    t = 1 + 20 / (1 + np.exp(-1))
    after = run(chain(skd=methods.skd(temperature=5.0), lskd=lskd(), ctkd=ctkd()), view)[0]
    np.testing.assert_allclose(after.match.temperature, t, rtol=1e-6)
    np.testing.assert_allclose(after.match.student, standardize(view.match.student), rtol=1e-6)
    assert run(chain(ctkd=ctkd(), lskd=lskd()), view)[0].match.temperature == 2.0


def test_without_a_range_ctkd_is_kd():
    view = view_at()
    ours = run(chain(ctkd=ctkd(start=4.0, scale=0.0), kd=methods.kd()), view)[1]["kd"]
    np.testing.assert_array_equal(ours, run(methods.kd(), view)[1][""])


def test_dist_as_a_criterion():
    """Twice each part at T = 4, unless a refiner or the criterion sets another."""
    view = view_at()
    for distiller, refined, weight, kwargs in (
        (dist(), view, 1, {"beta": 2.0, "gamma": 2.0, "temperature": 4.0}),
        (
            dist(weight=3.0, beta=1.0, gamma=0.5, temperature=1.0),
            view,
            3,
            {"beta": 1.0, "gamma": 0.5, "temperature": 1.0},
        ),
        (
            dist(),
            view._replace(match=view.match._replace(temperature=2.5)),
            1,
            {"beta": 2.0, "gamma": 2.0, "temperature": 2.5},
        ),
    ):
        after, terms, logs, stats = run(distiller, refined)
        assert after is refined and set(terms) == {""} and logs == stats == {} and terms[""].shape == ()
        np.testing.assert_allclose(terms[""], weight * dist_loss(**on(view), **kwargs), rtol=1e-6)
    assert (
        dist().needs == {"match", "match.temperature"}
        and dist(temperature=2.0).needs == {"match"}
        and dist(weight=0.0).needs == frozenset()
    )


INF = float("inf")


@pytest.mark.parametrize(("make", "message"), [
    (lambda: lskd(temperature=0.0), "lskd: temperature must be a finite number above 0, got 0.0"),
    (lambda: lskd(temperature=INF), "lskd: temperature must be"),
    (lambda: ctkd(start=0.0), "ctkd: start must be a finite number above 0, got 0.0"),
    (lambda: ctkd(scale=-1.0), "ctkd: scale must be a finite number, at least 0, got -1.0"),
    (lambda: ctkd(init=INF), "ctkd: init must be a finite number, got inf"),
    (lambda: ctkd(rate=0.0), "ctkd: rate must be"),
    (lambda: ctkd(epochs=0), "ctkd: epochs must be at least 1, got 0"),
    (lambda: dist(temperature=-1.0), "dist: temperature must be"),
])  # fmt: skip
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
