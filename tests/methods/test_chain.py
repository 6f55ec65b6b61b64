"""The laws of chain, weigh and identity; criteria read what refiners wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses, methods
from kd_jax.methods.base import NO_VARS, fold
from kd_jax.typing import Distiller, Monitor, Vars
from tests.conftest import make_init_context, make_view

KEY = jax.random.key(7)


def noisy() -> Distiller:
    """A member whose variables, term and statistics all depend on its key."""

    def init(key, context):
        return Vars({"w": jax.random.normal(key, (2,))}, {"n": jnp.zeros(())}, {"p": jnp.ones(())})

    def apply(vars, view, key, train):
        value = jax.random.uniform(key) + vars.params["w"].sum() + vars.policy["p"]
        return view, {"": value}, {"drawn": value}, {"n": vars.stats["n"] + 1}

    return Distiller(init, apply, frozenset({"index"}), {"": 0.5}, (Monitor("drawn", 0.0, "low"),))


@pytest.fixture
def view(rng):
    student, teacher = rng.normal(0, 3, (2, 8, 10))
    return make_view(student, teacher, np.arange(8) % 10)


def run(distiller, view):
    vars = distiller.init(KEY, make_init_context())
    return vars, *distiller.apply(vars, view, KEY, True)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_identity_is_the_unit(view):
    alone = methods.chain(n=noisy(), kd=methods.kd())
    same(
        run(alone, view),
        run(methods.chain(a=methods.identity(), n=noisy(), kd=methods.kd(), z=methods.identity()), view),
    )
    same(run(methods.identity(), view), run(methods.chain(), view))


def test_nesting(view):
    """A chain in a chain does what its members do, under paths."""
    flat = run(methods.chain(ce=methods.ce(), kd=methods.kd(), dkd=methods.dkd()), view)
    nested = run(methods.chain(ce=methods.ce(), logits=methods.chain(kd=methods.kd(), dkd=methods.dkd())), view)
    assert set(nested[2]) == {"ce", "logits/kd", "logits/dkd"}
    for name in ("kd", "dkd"):
        same(flat[2][name], nested[2][f"logits/{name}"])
    deep = methods.chain(a=methods.chain(b=methods.chain(n=noisy())))
    assert deep.lr_multipliers == {"a/b/n": 0.5} and deep.monitors[0].log == "a/b/n/drawn" and deep.needs == {"index"}
    vars = deep.init(KEY, make_init_context())
    same(vars.params["a"]["b"]["n"], noisy().init(fold(fold(fold(KEY, "a"), "b"), "n"), None).params)


def test_randomness_is_keyed_by_label(view):
    few = run(methods.chain(n=noisy()), view)
    many = run(methods.chain(other=noisy(), ce=methods.ce(), n=noisy()), view)
    for a, b in ((few[0].params, many[0].params), (few[2], many[2])):
        same(a["n"], b["n"])
    assert not np.array_equal(many[2]["n"], many[2]["other"])


def test_statistics_are_handed_back_under_their_labels(view):
    _, _, _, logs, stats = run(methods.chain(n=noisy(), ce=methods.ce()), view)
    same(stats, {"n": {"n": jnp.ones(())}})
    assert set(logs) == {"n/drawn"}


def test_a_zero_weight_is_the_identity(view):
    same(run(methods.weigh(noisy(), 0.0), view), run(methods.identity(), view))
    zero = methods.weigh(noisy(), 0)
    assert zero.needs == frozenset() and not zero.lr_multipliers and not zero.monitors
    for factory in (methods.ce, methods.kd, methods.dkd):
        same(run(methods.chain(n=noisy(), x=factory(weight=0.0)), view), run(methods.chain(n=noisy()), view))


def test_weigh_scales_terms_and_nothing_else(view):
    plain, scaled = run(noisy(), view), run(methods.weigh(noisy(), 3.0), view)
    np.testing.assert_allclose(scaled[2][""], 3 * plain[2][""], rtol=1e-6)
    same((scaled[0], scaled[1], *scaled[3:]), (plain[0], plain[1], *plain[3:]))


def test_a_schedule_reads_the_step(view):
    ramp = methods.ramp(2.0, epochs=4, steps_per_epoch=10)
    factors = [float(ramp(s)) for s in (0, 9, 10, 29, 30, 39, 40, 1000)]
    np.testing.assert_allclose(factors, [0.5, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0])
    full = run(methods.kd(), view)[2][""]
    for step, factor in ((0, 0.5), (15, 1.0), (500, 2.0)):
        late = view._replace(step=jnp.int32(step))
        np.testing.assert_allclose(run(methods.kd(weight=ramp), late)[2][""], factor * full, rtol=1e-6)


def test_criteria_leave_the_view_alone_and_read_match(view):
    other = view._replace(match=view.match._replace(teacher=2 * view.match.teacher, temperature=2.0))
    for criterion, loss, args in (
        (methods.kd(), losses.kd, {}),
        (methods.dkd(), losses.dkd, {"labels": view.labels}),
        (methods.dist(), losses.dist, {"beta": 2.0, "gamma": 2.0}),
    ):
        for v, t in ((view, 4.0), (other, 2.0)):
            after, terms, logs, stats = criterion.apply(NO_VARS, v, KEY, True)
            assert after is v and not logs and not stats
            same(terms, {"": loss(student=v.match.student, teacher=v.match.teacher, temperature=t, **args)})
    # a temperature of its own wins over the refiner's
    value = methods.kd(temperature=7.0).apply(NO_VARS, other, KEY, True)[1][""]
    same(value, losses.kd(student=other.match.student, teacher=other.match.teacher, temperature=7.0))


def test_the_task_loss_reads_the_raw_logits(view):
    refined = view._replace(match=view.match._replace(student=jnp.zeros_like(view.match.student)))
    same(run(methods.ce(), refined)[2], run(methods.ce(), view)[2])


def test_refusals(view):
    with pytest.raises(ValueError, match="chain: kd is a function, not a Distiller"):
        methods.chain(kd=methods.kd)
    with pytest.raises(ValueError, match="without"):
        methods.chain(**{"a/b": methods.ce()})
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be a finite number"):
            methods.kd(weight=bad)
    for factory in (methods.kd, methods.dkd):
        with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
            factory(temperature=0.0)
    with pytest.raises(ValueError, match="dkd: needs at least 3 classes, the data has 2"):
        methods.dkd().init(KEY, make_init_context(num_classes=2))
