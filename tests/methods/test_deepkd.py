"""DeepKD: its terms, how many classes count when, and its optimiser against the written-out update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses, methods
from kd_jax.engine.deepkd import deepkd as optimizer
from kd_jax.engine.objective import split_losses
from kd_jax.methods.base import NO_VARS
from tests.conftest import make_init_context, make_view
from tests.losses.common_input import LABELLED, LABELS, PAIR, STUDENT, TEACHER

KEY = jax.random.key(0)


def terms_at(distiller, step=0, steps=100, view=None):
    vars = distiller.init(KEY, make_init_context(5, 3)._replace(steps=steps))
    view = (view or make_view(STUDENT, TEACHER, LABELS))._replace(step=jnp.int32(step))
    _, terms, logs, stats = distiller.apply(vars, view, KEY, True)
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
    return terms, logs


def test_all_classes_make_kd_or_dkd(x64):
    both, logs = terms_at(methods.deepkd(first_classes=1.0), steps=0)
    np.testing.assert_allclose(both["target"] + both["rest"], losses.kd(**PAIR), rtol=1e-12)
    assert logs == {}
    both, _ = terms_at(methods.deepkd(weight=0.5, alpha=2.0, beta=3.0, first_classes=1.0))
    np.testing.assert_allclose(
        both["target"] + both["rest"], 0.5 * losses.dkd(**LABELLED, alpha=2.0, beta=3.0), rtol=1e-12
    )


def test_the_share_of_classes_grows_in_a_straight_line(x64):
    distiller = methods.deepkd(first_classes=0.2, full_at=0.5, beta=1.0)
    for step, count in ((0, 1), (10, 2), (25, 3), (49, 5), (50, 5), (100, 5)):
        terms, logs = terms_at(distiller, step)
        assert logs["classes"] == count, step
        np.testing.assert_allclose(terms["rest"], losses.decoupled(**LABELLED, count=count)[1], rtol=1e-12)
    with pytest.raises(InputError, match="deepkd: first_classes needs the number of steps: make_init_context"):
        terms_at(distiller, steps=0)


def test_refined_targets_and_raw_order(x64):
    view = make_view(STUDENT, TEACHER, LABELS)
    view = view._replace(match=view.match._replace(teacher=jnp.asarray(TEACHER[:, ::-1]), temperature=2.0))
    terms, _ = terms_at(methods.deepkd(first_classes=0.6, full_at=1.0, beta=1.0), view=view)
    pair = {"student": STUDENT, "teacher": TEACHER[:, ::-1], "labels": LABELS, "temperature": 2.0}
    target, rest = losses.decoupled(**pair, raw_teacher=TEACHER, count=3)
    np.testing.assert_allclose(terms["target"], target, rtol=1e-12)
    np.testing.assert_allclose(terms["rest"], rest, rtol=1e-12)


def test_the_optimizer_in_full(x64):
    """The sheet's numbers of the paper's reading: task and rest with momentum 0.975, target with 0.825."""
    both = ({"p": True}, {"p": True})
    tx = optimizer(lambda step: 0.1, dependencies=both, momentum=0.9, delta=0.075, weight_decay=0.01)
    params = {"p": jnp.ones(())}
    state, values = tx.init(params), []
    for _ in range(4):
        move, state = tx.update(({"p": jnp.float64(0.2)}, {"p": jnp.float64(0.5 + 0.3)}), state, params)
        params = {"p": params["p"] + move["p"]}
        values.append(float(params["p"]))
    np.testing.assert_allclose(values, [0.899, 0.702626, 0.41593372, 0.0435097], rtol=1e-7)


def test_terms_are_split_by_name():
    def loss(params):
        terms = {name: params * jnp.ones(2) for name in ("ce", "deepkd/target", "deepkd/rest")}
        return 0.0, (None, terms)

    given = (loss, jnp.float32(1.0))
    (apart, others), _ = split_losses(*given, task_terms=frozenset({"*/target"}), mask=jnp.ones(2))
    assert (apart, others) == (1.0, 2.0)
    (apart, others), _ = split_losses(*given, task_terms=frozenset({"ce"}), mask=jnp.ones(2))
    assert (apart, others) == (1.0, 2.0)
    with pytest.raises(
        InputError, match="two gradients: needs a term .*/goal and another one, there are ce, deepkd/targ"
    ):
        split_losses(*given, task_terms=frozenset({"*/goal"}), mask=jnp.ones(2))


@pytest.mark.parametrize(("how", "message"), [
    ({"alpha": -1.0}, "deepkd: alpha must be a finite number, at least 0, got -1"),
    ({"first_classes": 0.0}, "deepkd: first_classes must be a share above 0, at most 1, got 0"),
    ({"full_at": 1.5}, "deepkd: full_at must be a share above 0, at most 1, got 1.5"),
    ({"temperature": 0.0}, "deepkd: temperature must be a finite number above 0, or None, got 0"),
])  # fmt: skip
def test_what_is_wrong_is_named(how, message):
    with pytest.raises(InputError, match=message):
        methods.deepkd(**how)
    with pytest.raises(InputError, match="deepkd: needs at least 3 classes, the data has 2; use kd"):
        methods.deepkd().init(KEY, make_init_context(2))
    assert methods.deepkd(weight=0.0).apply(NO_VARS, make_view(STUDENT, TEACHER), KEY, True)[1] == {}
