"""Other views of a batch, one of several teachers, the student's average, and what a step leaves alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import losses, methods
from kd_jax.engine.objective import gradients, mask_of, objective
from kd_jax.engine.step import sync_stats
from kd_jax.methods.base import NO_VARS, fold
from kd_jax.methods.terms import criterion
from kd_jax.typing import Distiller, RowUpdate, Vars, extra_view

KEY = jax.random.key(0)
TX = optax.sgd(0.05, momentum=0.9)


def start(nets, distiller, teachers=1, **how):
    """A state and a step, with so many teachers."""
    context = kd_jax.make_init_context(
        nets["student"], (nets["teacher"],) * teachers, image_shape=(8, 8, 3), batch_size=8, needs=distiller.needs
    )
    parts = {"student": nets["student"], "distiller": distiller, "tx": TX}
    init = partial(kd_jax.init_state, context=context, ema="ema" in how, **parts)
    return jax.jit(init)(KEY), jax.jit(partial(kd_jax.train_step, **how, **parts))


def outputs(nets, shift=0.0):
    taught = jax.jit(partial(kd_jax.teacher_outputs, nets["teacher"]))(nets["tv"], nets["batch"]["image"])
    return taught._replace(logits=taught.logits + shift * jnp.arange(10))


def steps(nets, distiller, taught, count=2, batch=None, **how):
    state, step = start(nets, distiller, len(taught), **how)
    history = [state]
    for _ in range(count):
        state, metrics = step(state, taught, batch or nets["batch"], KEY)
        history.append(state)
    return history, metrics


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def kd(**terms):
    return methods.chain(ce=methods.ce(weight=0.1), **terms)


def test_an_average_with_decay_0_is_the_student(nets):
    history, _ = steps(nets, kd(kd=methods.kd()), (outputs(nets),), ema=0.0)
    for state in history:
        same(state.ema, state.student._asdict())


def test_the_average_is_that_of_the_steps(nets):
    history, _ = steps(nets, kd(kd=methods.kd()), (outputs(nets),), count=3, ema=0.75)
    wanted = history[0].student._asdict()
    for state in history[1:]:
        wanted = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, wanted, state.student._asdict())
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), state.ema, wanted)
    plain, _ = steps(nets, kd(kd=methods.kd()), (outputs(nets),), count=3)
    same(plain[-1].params, history[-1].params)  # the student does not notice
    assert plain[-1].ema == {}


def test_one_teacher_by_itself_is_the_one_teacher(nets):
    single = kd(kd=methods.taught_by(methods.kd(), 0), fit=methods.taught_by(methods.fitnet(weight=1.0), 0))
    plain = kd(kd=methods.kd(), fit=methods.fitnet(weight=1.0))
    same(*(steps(nets, d, (outputs(nets),))[0][-1].params for d in (single, plain)))


def test_each_of_two_teachers_is_heard(nets):
    taught = (outputs(nets), outputs(nets, shift=1.0))
    both = kd(
        mean=methods.kd(temperature=2.0),
        a=methods.taught_by(methods.kd(temperature=2.0), 0),
        b=methods.taught_by(methods.kd(temperature=2.0), 1),
    )
    history, metrics = steps(nets, both, taught, count=1)
    student = kd_jax.models.apply(nets["student"], history[0].student, nets["batch"]["image"], True)[0].logits
    logits = {"a": taught[0].logits, "b": taught[1].logits, "mean": (taught[0].logits + taught[1].logits) / 2}
    for name, teacher in logits.items():
        wanted = losses.kd(student=student, teacher=teacher, temperature=2.0).mean()
        mean = metrics[f"terms/{name}"]
        np.testing.assert_allclose(mean.total / mean.count, wanted, rtol=1e-4)


def test_refiners_refine_what_one_teacher_says(nets):
    taught = (outputs(nets), outputs(nets, shift=1.0))
    chain = methods.chain(lskd=methods.lskd(temperature=2.0), b=methods.taught_by(methods.kd(), 1))
    history, metrics = steps(nets, chain, taught, count=1)
    student = kd_jax.models.apply(nets["student"], history[0].student, nets["batch"]["image"], True)[0].logits
    pair = {"student": losses.standardize(student), "teacher": losses.standardize(taught[1].logits)}
    wanted = losses.kd(**pair, temperature=2.0).mean()
    np.testing.assert_allclose(metrics["terms/b"].total / metrics["terms/b"].count, wanted, rtol=1e-4)


def test_wrong_teachers_are_refused(nets):
    with pytest.raises(ValueError, match="teacher 2: there are 2, counted from 0"):
        start(nets, kd(b=methods.taught_by(methods.kd(), 2)), teachers=2)
    with pytest.raises(ValueError, match="two views of the batch reads all teachers"):
        methods.taught_by(methods.mlld(), 0)


def second(view):
    """A term on the strong view alone."""
    return {"": losses.cross_entropy(student=view.extra_views["strong"].match.student, labels=view.labels)}


def test_the_strong_view_has_its_own_pass_behind_the_first(nets):
    """Its logits come from its images, its BatchNorm moves what the first view's has moved; refiners reach it."""
    taught, image = outputs(nets), jnp.flip(nets["batch"]["image"], axis=0) * 0.5
    batch = {**nets["batch"], "views": {"strong": {"image": image, "teachers": (taught,)}}}
    chain = methods.chain(lskd=methods.lskd(), strong=criterion(second, frozenset({"match", extra_view("strong")})))
    history, metrics = steps(nets, chain, (taught,), count=1, batch=batch)
    net = history[0].student
    _, once = kd_jax.models.apply(nets["student"], net, nets["batch"]["image"], True)
    strong, twice = kd_jax.models.apply(nets["student"], net._replace(stats=once), image, True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), history[1].stats["student"], twice)
    wanted = losses.cross_entropy(student=losses.standardize(strong.logits), labels=batch["label"]).mean()
    np.testing.assert_allclose(metrics["terms/strong"].total / metrics["terms/strong"].count, wanted, rtol=1e-4)


def test_a_refiner_threads_its_statistics_through_the_views(nets):
    def apply(vars, view, key, train):
        drawn = jax.random.normal(key, ())
        match = view.match._replace(temperature=drawn)
        return view._replace(match=match), {}, {"n": vars.stats["n"]}, {"n": vars.stats["n"] + 1}

    counting = methods.everywhere(Distiller(lambda k, f: NO_VARS, apply, frozenset({"match"})))
    context = kd_jax.make_init_context(
        nets["student"],
        (nets["teacher"],),
        image_shape=(8, 8, 3),
        batch_size=8,
        needs=frozenset({extra_view("strong")}),
    )
    view = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), context.view_shapes)
    refined, _, logs, stats = counting.apply(NO_VARS._replace(stats={"n": jnp.zeros(())}), view, KEY, True)
    assert stats["n"] == 2 and logs["n"] == 0
    assert refined.match.temperature == jax.random.normal(KEY, ())
    assert refined.extra_views["strong"].match.temperature == jax.random.normal(fold(KEY, "strong"), ())


def test_two_gradients_are_one_in_two_parts(nets):
    chain = kd(kd=methods.kd(weight=0.9), fit=methods.fitnet(weight=1.0))
    state, _ = start(nets, chain)
    given = (state.params, state.policy, state, (outputs(nets),), nets["batch"], KEY)
    loss = partial(objective, student=nets["student"], distiller=chain)
    split = partial(gradients, loss, mask=mask_of(nets["batch"]))
    value, _, whole = jax.jit(partial(split, task_terms=None))(*given)
    both, _, (task, other) = jax.jit(partial(split, task_terms=frozenset({"ce"})))(*given)
    np.testing.assert_allclose(value, both, rtol=1e-6)
    jax.tree.map(lambda w, a, b: np.testing.assert_allclose(w, a + b, rtol=1e-4, atol=1e-6), whole, task, other)
    assert not np.any(task["method"]["fit"]["regressor"]["conv0"]["kernel"])
    assert np.any(other["method"]["fit"]["regressor"]["conv0"]["kernel"])


def test_rows_are_written_and_counts_stay():
    table = jnp.arange(8.0).reshape(4, 2)
    stats = {"bank": RowUpdate(table, jnp.array([3, 1]), jnp.full((2, 2), 9.0)), "n": jnp.int32(3), "mean": jnp.ones(2)}
    synced = sync_stats(stats, {"bank": table, "n": jnp.int32(3), "mean": jnp.ones(2)}, None)
    np.testing.assert_array_equal(synced["bank"], [[0, 1], [9, 9], [4, 5], [9, 9]])
    assert synced["n"] == 3 and synced["n"].dtype == jnp.int32


def test_a_method_may_start_with_what_an_earlier_phase_has_trained(nets):
    chain = kd(fit=methods.fitnet(weight=1.0))
    context = kd_jax.make_init_context(nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8)
    parts = {"student": nets["student"], "distiller": chain, "tx": TX}
    first = kd_jax.init_state(jax.random.key(9), context=context, **parts)
    trained = Vars(first.params["method"]["fit"], first.stats["method"]["fit"], {})
    again = kd_jax.init_state(KEY, context=context._replace(initial_vars={"fit": trained, "other": trained}), **parts)
    same(again.params["method"], first.params["method"])
    assert not np.array_equal(again.params["student"]["fc"]["kernel"], first.params["student"]["fc"]["kernel"])
    small = jax.tree.map(lambda x: x[..., :1], trained)
    with pytest.raises(ValueError, match="fit: its variables and those that it is to start with"):
        kd_jax.init_state(KEY, context=context._replace(initial_vars={"fit": small}), **parts)
