"""The pure step: what it changes, what it must not, and what it measures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import losses, methods, models
from kd_jax.engine import optim
from kd_jax.engine.metrics import read
from kd_jax.engine.step import select_outputs

KEY = jax.random.key(0)


def start(nets, distiller, lr=0.05, teacher=True):
    tx = optim.grouped(optim.sgd, optim.step_schedule(lr, milestones=(), gamma=0.1), distiller.lr_multipliers)
    teachers = (nets["teacher"],) if teacher else ()
    context = kd_jax.make_init_context(nets["student"], teachers, image_shape=(8, 8, 3), batch_size=8)
    parts = {"student": nets["student"], "distiller": distiller, "tx": tx}
    init = jax.jit(partial(kd_jax.init_state, context=context, **parts))
    return init(KEY), jax.jit(partial(kd_jax.train_step, **parts))


def trained(nets, distiller, steps=3, **kwargs):
    state, step = start(nets, distiller, **kwargs)
    taught = kd_jax.teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"])
    for _ in range(steps):
        state, metrics = step(state, taught, nets["batch"], KEY)
    return state, metrics


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def kd(**skd):
    refine = {"skd": methods.skd(**skd)} if skd else {}
    return methods.chain(**refine, ce=methods.ce(weight=0.1), kd=methods.kd(weight=0.9))


def test_skd_off_is_kd_bit_for_bit(nets):
    off, plain = trained(nets, kd(simplifier="none", student_temperature=None)), trained(nets, kd())
    same(off, plain)
    other, _ = trained(nets, kd(simplifier="none", temperature=2.0))
    assert not np.array_equal(other.params["student"]["fc"]["bias"], plain[0].params["student"]["fc"]["bias"])


def test_a_zero_weight_term_changes_nothing(nets):
    more = methods.chain(ce=methods.ce(weight=0.1), kd=methods.kd(weight=0.9), dkd=methods.dkd(weight=0.0))
    same(trained(nets, more), trained(nets, kd()))


def test_the_simplifier_and_the_student_train_together(nets):
    state, step = start(nets, kd(temperature=4.0))
    taught = kd_jax.teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"])
    once, _ = step(state, taught, nets["batch"], KEY)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), once.params, state.params)
    assert moved["student"]["fc"]["kernel"] > 0 and moved["method"]["skd"]["output"] > 0
    assert int(once.step) == 1


def test_the_student_starts_the_same_whatever_trains_it(nets):
    same(start(nets, kd())[0].student, start(nets, kd(temperature=2.0))[0].student)


def test_nothing_of_the_teacher_is_trained(nets):
    """No gradient into the teacher; its statistics are read, not moved; it is not in the state."""
    image = nets["batch"]["image"]
    grads = jax.grad(lambda v: kd_jax.teacher_outputs(nets["teacher"], v, image).logits.sum())(nets["tv"])
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))
    outputs = kd_jax.teacher_outputs(nets["teacher"], nets["tv"], image)
    same(outputs.logits, models.apply(nets["teacher"], nets["tv"], image, train=False)[0].logits)
    before = jax.tree.map(np.array, nets["tv"])
    state, _ = trained(nets, kd(temperature=4.0))
    same(before, jax.tree.map(np.asarray, nets["tv"]))
    sizes = models.count_parameters(nets["sv"].params) + models.count_parameters(nets["sv"].stats)
    assert models.count_parameters((state.params["student"], state.stats["student"])) == sizes


def test_statistics_of_the_student_move_in_training_and_not_in_evaluation(nets):
    state, _ = trained(nets, kd())
    assert not np.array_equal(
        state.stats["student"]["bn1"]["mean"], start(nets, kd())[0].stats["student"]["bn1"]["mean"]
    )
    batch = {**nets["batch"], "mask": jnp.ones(8)}
    once = read(kd_jax.eval_step(state.student, None, batch, model=nets["student"]))
    twice = read(kd_jax.eval_step(state.student, None, batch, model=nets["student"]))
    assert once == twice


def test_loss_is_the_sum_of_weighted_means(nets):
    state, step = start(nets, kd())
    batch = nets["batch"]
    taught = kd_jax.teacher_outputs(nets["teacher"], nets["tv"], batch["image"])
    student = models.apply(nets["student"], state.student, batch["image"], train=True)[0].logits
    ce = losses.cross_entropy(student=student, labels=batch["label"]).mean()
    soft = losses.kd(student=student, teacher=taught.logits).mean()
    metrics = read(step(state, taught, batch, KEY)[1])
    assert metrics["loss"] == pytest.approx(float(0.1 * ce + 0.9 * soft), rel=1e-5)
    assert metrics["terms/ce"] == pytest.approx(0.1 * float(ce), rel=1e-5)
    assert metrics["terms/kd"] == pytest.approx(0.9 * float(soft), rel=1e-5)
    assert metrics["top1"] == pytest.approx(float((student.argmax(-1) == batch["label"]).mean()))


def test_masked_examples_do_not_count(nets):
    """In evaluation padding is invisible: the same as the shorter batch."""
    batch, half = nets["batch"], {k: v[:5] for k, v in nets["batch"].items()}
    teacher = jnp.asarray(np.random.default_rng(0).normal(size=(8, 10)))
    mask = jnp.array([1.0] * 5 + [0.0] * 3)
    padded = read(kd_jax.eval_step(nets["sv"], teacher, {**batch, "mask": mask}, model=nets["student"]))
    short = read(kd_jax.eval_step(nets["sv"], teacher[:5], {**half, "mask": jnp.ones(5)}, model=nets["student"]))
    assert padded == pytest.approx(short, rel=1e-5) and set(padded) == {"loss", "top1", "top5", "agreement"}


def test_the_step_folds_the_key_in(nets):
    """One root key for the whole run; randomness still differs from step to step."""
    from kd_jax.typing import Distiller

    def apply(vars, view, key, train):
        return view, {}, {"": jax.random.uniform(key)}, {}

    drawn = methods.chain(ce=methods.ce(), draw=Distiller(methods.identity().init, apply))
    values = [float(read(trained(nets, drawn, steps=n)[1])["logs/draw"]) for n in (1, 2, 1)]
    assert values[0] == values[2] != values[1]


def test_teachers_one_several_none(nets):
    batch = nets["batch"]
    taught = kd_jax.teacher_outputs(nets["teacher"], nets["tv"], batch["image"])
    state, step = start(nets, kd())
    same(step(state, taught, batch, KEY), step(state, (taught,), batch, KEY))
    same(step(state, taught, batch, KEY)[0].step, step(state, (taught, taught), batch, KEY)[0].step)
    alone, step = start(nets, methods.chain(ce=methods.ce()), teacher=False)
    assert set(step(alone, None, batch, KEY)[1]) == {"loss", "top1", "terms/ce"}


def test_only_what_is_needed_leaves_the_teacher(nets):
    outputs = models.apply(nets["teacher"], nets["tv"], nets["batch"]["image"])[0]
    bare = select_outputs(outputs, frozenset({"match"}))
    assert bare.stages == () and bare.preacts is None and bare.pooled is None and bare.logits is outputs.logits
    full = select_outputs(outputs, frozenset({"teacher.stages", "teacher.preacts", "teacher.pooled"}))
    assert full.stages is outputs.stages and full.preacts is outputs.preacts and full.pooled is outputs.pooled


def test_the_state_keeps_its_types(nets):
    """Else the second step would compile again."""
    state, step = start(nets, kd(temperature=4.0))
    taught = kd_jax.teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"])
    for _ in range(4):
        state, _ = step(state, taught, nets["batch"], KEY)
    assert step._cache_size() == 1
