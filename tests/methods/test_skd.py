"""SKD by hand: every switch, and what is reported."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses, methods
from kd_jax.layers import simplifier as block
from kd_jax.methods.base import NO_VARS
from kd_jax.typing import Vars
from tests.conftest import make_init_context, make_view

KEY = jax.random.key(0)


def logits(seed=0, b=8, k=10, scale=4.0):
    return np.random.default_rng(seed).normal(0, scale, (2, b, k)).astype(np.float32)


def trained(distiller, scale=1.0, k=10, b=8):
    """Variables with a non-zero output, as after training."""
    vars = distiller.init(KEY, make_init_context(k, b))
    noise = jax.random.normal(jax.random.key(1), vars.params["output"].shape) * scale
    return vars._replace(params={**vars.params, "output": noise})


def kl(p, q):
    return jnp.sum(jax.nn.softmax(p) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(q)), axis=-1)


SYMMETRIC = {"student_temperature": None}


def context_of(k=10, b=8, steps=0):
    return make_init_context(k, b)._replace(steps=steps)


def after(distiller, student, teacher, vars=None, step=0, steps=0):
    """The pair that a refiner makes."""
    vars = distiller.init(KEY, context_of(steps=steps)) if vars is None else vars
    return distiller.apply(vars, make_view(student, teacher, step=step), KEY, True)[0].match


def test_by_hand(x64):
    """u + b tanh(attention / b), handed on as tau v at temperature tau; the student at its own."""
    student, teacher = (z.astype(np.float64) for z in logits())
    d = methods.skd(temperature=3.0, bound=0.2, simplifier="batch")
    vars = trained(d)
    view, terms, logs, stats = d.apply(vars, make_view(student, teacher), KEY, True)
    u = jax.nn.log_softmax(jnp.asarray(teacher) / 3.0)
    n = block.standardize_rows(u)
    v = u + 0.2 * jnp.tanh(block.apply(vars.params, n, tokens="batch") / 0.2)
    np.testing.assert_allclose(view.match.teacher, 3.0 * v, rtol=1e-5)
    assert (view.match.temperature, view.match.teacher_temperature) == (1.0, 3.0) and not terms and not stats
    np.testing.assert_array_equal(view.match.student, student)  # only the teacher's side moves
    np.testing.assert_array_equal(view.student.logits, student)
    np.testing.assert_allclose(logs["kl_ut"], kl(u, v), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(logs["correction"], jnp.abs(v - u).mean(-1), rtol=1e-4)
    both = methods.skd(temperature=3.0, bound=0.2, simplifier="batch", **SYMMETRIC)
    match = after(both, student, teacher, vars)
    np.testing.assert_array_equal(match.teacher, view.match.teacher)
    assert (match.temperature, match.teacher_temperature) == (3.0, None)


@pytest.mark.parametrize("tokens", block.TOKENS)
@pytest.mark.parametrize("student_temperature", [None, 1.0, 2.0])
def test_before_training_the_simplifier_changes_nothing(tokens, student_temperature):
    student, teacher = logits()
    how = {"temperature": 3.0, "student_temperature": student_temperature}
    values = []
    for simplifier, bound in itertools.product((tokens, "none"), (0.1, None)):
        d = methods.chain(skd=methods.skd(**how, simplifier=simplifier, bound=bound), kd=methods.kd())
        vars = d.init(KEY, make_init_context())
        _, terms, logs, _ = d.apply(vars, make_view(student, teacher), KEY, True)
        values.append(terms["kd"])
        if simplifier == tokens:
            np.testing.assert_allclose(logs["skd/kl_ut"], 0, atol=1e-6)
            assert float(logs["skd/ratio"].total / logs["skd/ratio"].count) == pytest.approx(1, abs=1e-4)
    for value in values:
        np.testing.assert_allclose(value, values[-1], rtol=2e-4, atol=1e-5)


def test_without_simplifier_it_is_kd_or_ttm(x64):
    """KD where both sides have the temperature, bit for bit; TTM where the teacher is softened alone."""
    student, teacher = (z.astype(np.float64) for z in logits())
    view = make_view(student, teacher)

    def term(criterion=None, **how):
        d = methods.skd(simplifier="none", **how)
        vars = d.init(KEY, make_init_context())
        assert vars == NO_VARS and not d.lr_multipliers and not d.monitors and not d.whole_batch
        assert d.refines == {"match.temperature"}  # a criterion with a temperature of its own sees no change
        refined, terms, logs, _ = d.apply(vars, view, KEY, True)
        assert not terms and not logs and refined.match.teacher is view.match.teacher
        return (criterion or methods.kd()).apply(NO_VARS, refined, KEY, True)[1][""]

    np.testing.assert_array_equal(
        term(temperature=5.0, **SYMMETRIC), losses.kd(student=student, teacher=teacher, temperature=5.0)
    )
    ttm = losses.ttm(student=student, teacher=teacher, gamma=0.25)
    np.testing.assert_allclose(term(), ttm, rtol=1e-9)
    # a criterion with a temperature of its own takes no other: neither twice
    np.testing.assert_array_equal(
        term(methods.kd(temperature=2.0)), losses.kd(student=student, teacher=teacher, temperature=2.0)
    )
    np.testing.assert_array_equal(term(methods.ttm(gamma=0.25)), ttm)
    # two temperatures, T^2 of the student's
    p, q = jax.nn.softmax(jnp.asarray(teacher) / 6), jax.nn.log_softmax(jnp.asarray(student) / 2)
    np.testing.assert_allclose(
        term(temperature=6.0, student_temperature=2.0), 4 * (p * (jnp.log(p) - q)).sum(-1), rtol=1e-9
    )


def test_annealing(x64):
    """The teacher's temperature falls by one factor a step; at the end, and behind it, it is `anneal_to`."""
    student, teacher = (z.astype(np.float64) for z in logits())
    d = methods.skd(temperature=8.0, anneal_to=1.0, simplifier="none")
    matches = [after(d, student, teacher, step=step, steps=100) for step in (0, 50, 100, 130)]
    np.testing.assert_allclose([m.teacher_temperature for m in matches], [8, 8**0.5, 1, 1], rtol=1e-6)
    assert all(m.temperature == 1.0 for m in matches)
    both = after(methods.skd(temperature=8.0, anneal_to=2.0, simplifier="none", **SYMMETRIC), student, teacher,
                 step=25, steps=100)  # fmt: skip
    np.testing.assert_allclose(both.temperature, 8 * 0.25**0.25, rtol=1e-6)
    assert both.teacher_temperature is None
    vars = d.init(KEY, context_of(steps=100))
    assert d.apply(vars, make_view(student, teacher), KEY, True)[2]["temperature"].shape == ()
    # with equal ends it is constant, with and without a simplifier
    for simplifier in ("none", *block.TOKENS):
        one, two = (
            after(methods.skd(temperature=3.0, simplifier=simplifier, anneal_to=end), student, teacher, step=7, steps=9)
            for end in (3.0, None)
        )
        np.testing.assert_allclose(one.teacher, two.teacher, rtol=1e-6)
        np.testing.assert_allclose(one.teacher_temperature, two.teacher_temperature, rtol=1e-6)
    with pytest.raises(ValueError, match="anneal_to needs the number of steps: make_init_context"):
        d.init(KEY, make_init_context())


def test_a_learned_degree(x64):
    """For each example a temperature between the ends, which the criterion trains; the range shrinks to the end."""
    student, teacher = (z.astype(np.float64) for z in logits())
    d = methods.skd(temperature=8.0, anneal_to=1.0, simplifier="degree")
    vars = d.init(KEY, context_of(steps=100))
    start = after(d, student, teacher, vars).teacher_temperature
    np.testing.assert_allclose(start, np.full((8, 1), 8 ** np.tanh(4 / np.log(8))), rtol=1e-6)
    moved = vars._replace(params={**vars.params, "output": jax.random.normal(KEY, (16, 1))})
    by_step = [after(d, student, teacher, moved, step=step).teacher_temperature for step in (0, 50, 100)]
    assert np.std(by_step[0]) > 0.1 and np.all(1 / 8 <= by_step[0]) and np.all(by_step[0] <= 8)
    np.testing.assert_allclose(by_step[1], by_step[0] ** 0.5, rtol=1e-6)
    np.testing.assert_allclose(by_step[2], 1, rtol=1e-6)
    logs = d.apply(moved, make_view(student, teacher), KEY, True)[2]
    np.testing.assert_array_equal(logs["temperature"], by_step[0][:, 0])

    def loss(params):
        pair = methods.chain(skd=d, kd=methods.kd())
        given = Vars({"skd": params}, {"skd": vars.stats}, {})
        return pair.apply(given, make_view(student, teacher), KEY, True)[1]["kd"].mean()

    slopes = jax.jit(jax.grad(loss))(vars.params)
    assert float(jnp.abs(slopes["bias"]).max()) > 1e-6 and float(jnp.abs(slopes["output"]).max()) > 1e-6


def test_normalize_and_residual_switches(x64):
    student, teacher = (z.astype(np.float64) for z in logits())
    u = jax.nn.log_softmax(jnp.asarray(teacher) / 4.0)
    raw = methods.skd(bound=None, normalize=False, simplifier="batch")
    vars = trained(raw, 0.1)
    refined = after(raw, student, teacher, vars).teacher
    np.testing.assert_allclose(refined, 4 * (u + block.apply(vars.params, u, tokens="batch")), rtol=1e-5)
    bare = methods.skd(bound=None, residual=False, simplifier="batch")
    vars = bare.init(KEY, make_init_context())
    assert float(jnp.abs(vars.params["output"]).max()) > 0  # from zero it could not tell classes apart
    refined = bare.apply(vars, make_view(student, teacher), KEY, True)
    n = block.standardize_rows(u)
    np.testing.assert_allclose(refined[0].match.teacher, 4 * block.apply(vars.params, n, tokens="batch"), rtol=1e-5)
    assert "correction" not in refined[2] and "at_bound" not in refined[2]


def test_the_anchor_is_a_term_of_its_own(x64):
    student, teacher = (z.astype(np.float64) for z in logits())
    for student_temperature, factor in ((None, 9), (2.0, 4)):
        d = methods.skd(anchor=10.0, bound=None, temperature=3.0, student_temperature=student_temperature)
        refined, terms, _, _ = d.apply(trained(d), make_view(student, teacher), KEY, True)
        moved = kl(jnp.asarray(teacher) / 3, refined.match.teacher / 3)
        np.testing.assert_allclose(terms["anchor"], 10 * factor * moved, rtol=1e-5)


def test_logs(x64):
    """Each diagnostic against its definition."""
    student, teacher = (z.astype(np.float64) for z in logits())
    d = methods.skd(bound=2.0, temperature=2.0, student_temperature=3.0, simplifier="batch")
    refined, _, logs, _ = d.apply(trained(d, 5.0), make_view(student, teacher), KEY, True)
    u, t, s = jnp.asarray(teacher) / 2, refined.match.teacher / 2, jnp.asarray(student) / 3
    p, q = jax.nn.softmax(t), jax.nn.softmax(u)
    slow = {
        "kl_ut": kl(u, t), "kl_ts": kl(t, s), "kl_us": kl(u, s),
        "entropy": -(p * jnp.log(p)).sum(-1), "entropy_u": -(q * jnp.log(q)).sum(-1),
        "kept": p.argmax(-1) == q.argmax(-1),
        "spread": (p * jnp.log(p / p.mean(0))).sum(-1),
        "at_bound": (jnp.abs(t - jax.nn.log_softmax(u)) > 1.8).mean(-1),
    }  # fmt: skip
    for name, value in slow.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, atol=1e-7, err_msg=name)
    for name, top, bottom in (("ratio", kl(t, s), kl(u, s)), ("entropy_ratio", slow["entropy"], slow["entropy_u"])):
        np.testing.assert_allclose(logs[name].total / logs[name].count, top.sum() / bottom.sum(), rtol=1e-4)
    assert 0 < float(jnp.mean(logs["kept"])) < 1 and float(jnp.max(logs["at_bound"])) > 0  # the case tells something
    assert {w.log for w in d.monitors} == {"kept", "ratio", "entropy_ratio"} <= set(logs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"student_temperature": 0.0}, "student_temperature must be a finite number above 0, or None, got 0.0"),
        ({"anneal_to": -1.0}, "anneal_to must be"),
        ({"simplifier": "pixels"}, "simplifier must be one of batch, classes, degree, none, got 'pixels'"),
        ({"simplifier": "degree"}, "simplifier='degree' goes from temperature to anneal_to; give an anneal_to below"),
        ({"simplifier": "degree", "anneal_to": 4.0}, "give an anneal_to below it"),
        ({"simplifier": "none", "anchor": 1.0}, "simplifier='none' makes no target; anchor and residual=False are"),
        ({"width": 0}, "width must be"),
        ({"bound": 0.0}, "bound must be"),
        ({"rate": -0.1}, "rate must be"),
        ({"anchor": -1.0}, "anchor must be"),
        ({"residual": False}, "residual=False needs bound=None"),
    ],
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        methods.skd(**kwargs)
