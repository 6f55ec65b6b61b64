"""Optimisers against PyTorch's rules written out, schedules at their edges, groups with own rates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax import models
from kd_jax.engine import optim


def run(tx, gradients, start):
    params, state = jnp.asarray(start), None
    state = tx.init(params)
    for g in gradients:
        updates, state = tx.update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torch_sgd(rng, nesterov):
    start, grads = rng.normal(size=5).astype("f"), rng.normal(size=(6, 5)).astype("f")
    schedule = optim.step_schedule(0.1, milestones=(3,), gamma=0.1)
    ours = run(optim.sgd(schedule, momentum=0.9, weight_decay=0.01, nesterov=nesterov), grads, start)
    p, buffer = start.astype(np.float64), 0
    for i, g in enumerate(grads):
        g = g + 0.01 * p
        buffer = 0.9 * buffer + g
        p = p - (0.1 if i < 3 else 0.01) * (g + 0.9 * buffer if nesterov else buffer)
    np.testing.assert_allclose(ours, p, rtol=1e-5)


def test_adamw_is_torch_adamw(rng):
    start, grads = rng.normal(size=5).astype("f"), rng.normal(size=(6, 5)).astype("f")
    ours = run(optim.adamw(lambda step: 0.01, momentum=0.9, weight_decay=0.05), grads, start)
    p, m, v = start.astype(np.float64), 0, 0
    for t, g in enumerate(grads, 1):
        p = p * (1 - 0.01 * 0.05)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(ours, p, rtol=1e-5)


def test_step_schedule():
    """Epoch 151 counted from 1 is the first with the lower rate: step 150 * 781."""
    schedule = optim.step_schedule(0.05, milestones=(150 * 781, 180 * 781), gamma=0.1)
    rates = [float(schedule(jnp.int32(s))) for s in (0, 150 * 781 - 1, 150 * 781, 180 * 781, 10**6)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005, 0.0005, 0.0005], rtol=1e-6)


def test_cosine_and_warmup():
    schedule = optim.cosine_schedule(1.0, steps=110, warmup=10)
    rates = [float(schedule(jnp.int32(s))) for s in (0, 4, 9, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0.1, 0.5, 1.0, 1.0, 0.5, 0.0], atol=1e-6)
    warm = optim.step_schedule(1.0, milestones=(5,), gamma=0.5, warmup=4)
    np.testing.assert_allclose([float(warm(jnp.int32(s))) for s in (0, 3, 4, 5)], [0.25, 1.0, 1.0, 0.5])


RATES = (0.01, 0.025, 0.05, 0.1, 0.2)  # of the configs


def every_step(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps, dtype=jnp.int32)))


@pytest.mark.parametrize(("milestones", "gamma"), [
    ((150 * 78, 180 * 78, 210 * 78), 0.1), ((30, 60, 90), 0.1), ((5, 5, 9), 0.5), ((0, 4), 0.2), ((), 0.1),
])  # fmt: skip
def test_every_rate_is_gamma_to_the_milestones_passed(milestones, gamma):
    """The definition written out in float32, bit for bit; milestones may coincide where epochs are short."""
    step = np.arange(max(milestones, default=5) + 3)
    passed = sum((step >= m).astype("f") for m in milestones) + np.zeros(step.shape, "f")
    for lr in RATES:
        wanted = jax.jit(lambda passed, lr=lr: lr * jnp.float32(gamma) ** passed)(passed)
        ours = every_step(optim.step_schedule(lr, milestones=milestones, gamma=gamma), len(step))
        np.testing.assert_array_equal(ours, wanted)
    warm = every_step(optim.step_schedule(0.1, milestones=milestones, gamma=gamma, warmup=4), len(step))
    plain = every_step(optim.step_schedule(0.1, milestones=milestones, gamma=gamma), len(step))
    np.testing.assert_allclose(warm, plain * np.minimum((step + 1) / 4, 1), rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 100])
def test_cosine_is_that_of_optax_but_for_the_last_bits(warmup):
    ours = every_step(optim.cosine_schedule(0.1, steps=1000, warmup=warmup), 1005)[warmup:]
    theirs = every_step(optax.cosine_decay_schedule(0.1, 1000 - warmup), 1005 - warmup)
    np.testing.assert_allclose(ours, theirs, atol=3e-8)


def grouped(rates, params, steps=3, make=optim.sgd):
    tx = optim.grouped(make, lambda step: jnp.float32(0.1), rates)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("make", [optim.sgd, optim.adamw])
def test_groups_have_own_rates(make):
    one = jnp.ones(2)
    params = {
        "student": {"skd": {"w": one}},
        "method": {"skd": {"w": one}, "fit": {"deep": {"w": one}}, "skdx": {"w": one}},
    }
    rates = {"skd": 0.5, "fit/deep": 0.25}
    updated = grouped(rates, params, steps=1, make=make)
    step = {k: float((1 - v)[0]) for k, v in (
        ("student", updated["student"]["skd"]["w"]), ("skd", updated["method"]["skd"]["w"]),
        ("deep", updated["method"]["fit"]["deep"]["w"]), ("other", updated["method"]["skdx"]["w"]),
    )}  # fmt: skip
    assert step["skd"] == pytest.approx(0.5 * step["student"], rel=1e-4)
    assert step["deep"] == pytest.approx(0.25 * step["student"], rel=1e-4)
    assert step["other"] == pytest.approx(step["student"], rel=1e-4)  # a label is no prefix of another


def test_one_group_is_the_plain_optimiser(rng):
    params = {"student": jnp.asarray(rng.normal(size=3)), "method": {}}
    plain = run(optim.sgd(lambda step: jnp.float32(0.1)), [np.ones(3)] * 3, params["student"])
    np.testing.assert_array_equal(grouped({}, params)["student"], plain)
    bare = {"student": jnp.ones(1), "method": {"query": jnp.ones(1)}}  # a distiller without a chain
    halved = grouped({"": 0.5}, bare, steps=1)
    assert float(1 - halved["method"]["query"][0]) == pytest.approx(0.5 * float(1 - halved["student"][0]), rel=1e-4)


def test_what_decays_in_timms_recipes():
    """Of a transformer kernels alone; in a convolutional network no bias and no normalisation either."""
    names = {}
    for name, more in (("vit_tiny_patch16_224", {"width": 8, "heads": 2, "patch": 4, "blocks": (1,)}), ("resnet8", {})):
        params = models.shapes(models.create(name, 10, **more), (8, 8, 3))[0].params
        paths = jax.tree_util.tree_leaves_with_path(optim.decayed({"student": params, "method": {}}))
        names[name] = {jax.tree_util.keystr(path[1:], simple=True, separator="."): decays for path, decays in paths}
    for every in names.values():
        assert {path for path, decays in every.items() if decays} == {path for path in every if path.endswith("kernel")}
    spared = {path for path, decays in names["vit_tiny_patch16_224"].items() if not decays}
    assert {"cls_token", "pos_embed", "norm.scale", "norm.bias", "head.bias", "patch_embed.proj.bias"} < spared


@pytest.mark.parametrize("make", [optim.sgd, optim.adamw])
def test_what_does_not_decay_stays_where_there_is_no_gradient(make):
    """In a group with a rate of its own too; with decay_all nothing stays."""
    one = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    params = {"student": {"cls_token": jnp.ones((1, 1, 2)), "fc": one}, "method": {"fit": dict(one)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for decay_all in (True, False):
        tx = optim.grouped(partial(make, decay_all=decay_all), lambda step: jnp.float32(0.1), {"fit": 0.5})
        updates, _ = jax.jit(lambda zeros, params, tx=tx: tx.update(zeros, tx.init(params), params))(zeros, params)
        moved = jax.tree.map(lambda x: bool(jnp.any(x)), updates)
        layer = {"kernel": True, "bias": decay_all}
        assert moved == {"student": {"cls_token": decay_all, "fc": layer}, "method": {"fit": layer}}
