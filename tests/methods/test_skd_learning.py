"""SKD in training: the bound, the collapse of the literal reading, where gradients go."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_jax import methods
from kd_jax.layers import simplifier as block
from kd_jax.typing import Vars
from tests.conftest import make_init_context, make_view
from tests.methods.test_skd import KEY, SYMMETRIC, kl, logits, trained


@given(
    seed=st.integers(0, 10**6),
    bound=st.floats(0.01, 1.0),
    temperature=st.floats(0.5, 8),
    scale=st.floats(0.1, 1e4),
    tokens=st.sampled_from(block.TOKENS),
    student_temperature=st.sampled_from([None, 1.0]),
)
def test_the_bound_holds_whatever_the_weights(seed, bound, temperature, scale, tokens, student_temperature):
    """KL(softened || simplified) <= b^2 / 2, before training, after it, and at absurd weights."""
    student, teacher = logits(seed)
    how = {"temperature": temperature, "student_temperature": student_temperature}
    d = methods.skd(bound=bound, simplifier=tokens, **how)
    refined, _, logs, _ = d.apply(trained(d, scale), make_view(student, teacher), KEY, True)
    moved = kl(jnp.asarray(teacher) / temperature, refined.match.teacher / temperature)
    assert float(jnp.max(moved)) <= bound**2 / 2 + 1e-5
    np.testing.assert_allclose(logs["kl_ut"], moved, atol=2e-5)


def learn(distiller, steps, lr=0.05, b=32, student=None):
    """Train student logits (a free table) and the method's parameters by the distillation loss."""
    raw, teacher = logits(b=b)
    start = jnp.asarray(raw if student is None else student)
    vars = distiller.init(KEY, make_init_context(10, b))
    rates = {"student": lr, "method": lr * distiller.lr_multipliers["skd"]}
    tx = optax.partition(
        {k: optax.sgd(v, momentum=0.9) for k, v in rates.items()}, {"student": "student", "method": "method"}
    )

    def loss(p):
        view = make_view(p["student"], teacher)
        _, terms, logs, _ = distiller.apply(Vars(p["method"], {}, {}), view, KEY, True)
        return terms["kd"].mean(), logs

    @jax.jit
    def step(p, opt):
        grads, logs = jax.grad(loss, has_aux=True)(p)
        updates, opt = tx.update(grads, opt, p)
        return optax.apply_updates(p, updates), opt, logs

    params = {"student": start, "method": vars.params}
    opt = tx.init(params)
    history = []
    for _ in range(steps):
        params, opt, logs = step(params, opt)
        history.append(
            {k: float(v.total / v.count) if isinstance(v, tuple) else float(v.mean()) for k, v in logs.items()}
        )
    return history


def test_the_literal_reading_moves_the_target_to_the_student():
    """What the abstract says, taken at its word, collapses: the bounded default does not."""
    how = {"simplifier": "batch", **SYMMETRIC}
    literal = methods.chain(skd=methods.skd(**how, bound=None, normalize=False, rate=1.0), kd=methods.kd())
    bounded = methods.chain(skd=methods.skd(**how), kd=methods.kd())
    collapsed, held = learn(literal, 60)[-1], learn(bounded, 60)[-1]
    assert collapsed["skd/kl_ut"] > 0.5 and collapsed["skd/kept"] < 0.5
    assert held["skd/kl_ut"] <= 0.1**2 / 2 + 1e-6 and held["skd/kept"] > 0.9
    # and the warning thresholds tell the two apart
    below = {name: {w.log for w in d.monitors if h[w.log] < w.minimum} for name, d, h in
             (("literal", literal, collapsed), ("bounded", bounded, held))}  # fmt: skip
    assert below["literal"] and not below["bounded"]


def test_the_simplifier_learns_through_the_target_only():
    """Gradient reaches the simplifier through the distillation term, not through the task loss."""
    student, teacher = logits()
    d = methods.skd()
    vars = d.init(KEY, make_init_context())
    pair = methods.chain(skd=d, ce=methods.ce(), kd=methods.kd())

    def term(params, name):
        _, terms, _, _ = pair.apply(Vars({"skd": params}, {}, {}), make_view(student, teacher), KEY, True)
        return terms[name].mean()

    slopes = jax.jit(lambda params: [jax.grad(partial(term, name=name))(params) for name in ("kd", "ce")])
    by_kd, by_ce = slopes(vars.params)
    assert float(jnp.abs(by_kd["output"]).max()) > 1e-4
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(by_ce))


@partial(jax.jit, static_argnums=2)
def with_slopes(params, teacher, tokens):
    """Loss, logs and slopes in the parameters of SKD with all that reads its target."""
    d = methods.chain(skd=methods.skd(simplifier=tokens), kd=methods.kd(), dkd=methods.dkd())

    def loss(params):
        _, terms, logs, _ = d.apply(Vars(params, {}, {}), make_view(jnp.zeros((4, 10)), teacher), KEY, True)
        return sum(t.mean() for t in terms.values()), logs

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize("value", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("tokens", block.TOKENS)
def test_extreme_teachers_are_finite(value, tokens):
    teacher = np.zeros((4, 10), np.float32)
    teacher[:, 0] = value
    params = {"skd": trained(methods.skd(simplifier=tokens)).params}
    (value, logs), grads = with_slopes(params, teacher, tokens)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((value, logs, grads)))
