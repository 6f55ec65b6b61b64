"""FT: the paraphraser that a phase of its own trains, and the transfer of its factors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax.engine.state import abstract_state, init_state, make_init_context
from kd_jax.engine.step import teacher_outputs, train_step
from kd_jax.layers.factors import Paraphraser
from kd_jax.losses import fitnet
from kd_jax.methods import ft, paraphraser
from kd_jax.methods.base import NO_VARS, chain
from kd_jax.methods.terms import ce
from kd_jax.typing import Vars
from tests.methods.pretraining import expected_ft, falls, paraphrased, with_given
from tests.methods.test_vid import init_vars, run

# --- the paraphraser


def test_paraphraser_rebuilds_the_last_stage_of_the_network_in_training(autoencoder):
    view, _, distiller, vars = autoencoder
    assert set(vars.params) == {"encoder", "decoder"} and vars.stats == {} == vars.policy
    assert distiller.needs == frozenset() and vars.params["encoder"]["conv2"]["bias"].shape == (2,)
    value, stats = run(distiller, vars, view)
    last = view.student.stages[-1]
    _, rebuilt = Paraphraser(2).apply({"params": vars.params}, last)
    assert value.shape == (6,) and stats == {}
    np.testing.assert_allclose(value, fitnet(student=rebuilt, teacher=last), rtol=1e-5)
    falls(distiller, vars, view)


def test_paraphraser_with_batch_norm_and_another_rate(autoencoder):
    view, context, _, _ = autoencoder
    distiller = paraphraser(rate=0.8, batch_norm=True)
    vars = init_vars(distiller, context)
    assert vars.params["encoder"]["conv2"]["bias"].shape == (3,) and set(vars.stats) == {"encoder", "decoder"}
    _, stats = run(distiller, vars, view)
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
    assert all(not np.array_equal(*x) for x in zip(*map(jax.tree.leaves, (stats, vars.stats)), strict=True))
    jax.tree.map(np.testing.assert_array_equal, run(distiller, vars, view, train=False)[1], vars.stats)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_paraphraser_learns_while_the_network_stays(nets, batch_norm):
    """The engine's part too: trains="method" leaves parameters and statistics of the network as they are."""
    distiller, tx = chain(paraphraser=paraphraser(batch_norm=batch_norm)), optax.adam(3e-3)
    context = make_init_context(nets["teacher"], (), image_shape=(8, 8, 3), batch_size=8)
    parts = {"student": nets["teacher"], "distiller": distiller, "tx": tx, "trains": "method"}
    state = jax.jit(partial(init_state, context=context, **parts))(jax.random.key(0))
    student, stats = nets["tv"]
    state = state._replace(params={**state.params, "student": student}, stats={**state.stats, "student": stats})
    shapes = jax.tree.map(jnp.shape, state.opt)
    assert shapes == jax.tree.map(jnp.shape, tx.init({"method": state.params["method"]}))  # no moments of the network
    go = jax.jit(partial(train_step, **parts))
    start, values = state, []
    for _ in range(30):
        state, metrics = go(state, None, nets["batch"], jax.random.key(1))
        values.append(float(metrics["terms/paraphraser"].total / metrics["terms/paraphraser"].count))
    assert np.isfinite(values).all() and values[-1] < 0.6 * values[0] and state.step == 30
    jax.tree.map(np.testing.assert_array_equal, state.student, nets["tv"])
    for (path, x), y in zip(
        jax.tree.leaves_with_path(start.params["method"]), jax.tree.leaves(state.params["method"]), strict=True
    ):
        assert path[-1].key == "bias" or not np.array_equal(x, y), jax.tree_util.keystr(path)
    logits = teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"]).logits  # eval mode was measured
    top1 = float((logits.argmax(-1) == nets["batch"]["label"]).mean())
    np.testing.assert_allclose(metrics["top1"].total / metrics["top1"].count, top1)


# --- the transfer


def test_ft_is_200_times_the_loss_of_factors(transfer):
    view, context, distiller, vars = transfer
    assert distiller.needs == {"teacher.stages", "given.paraphraser"}
    value, stats = run(distiller, vars, view)
    expected, moved = expected_ft(vars, view)
    assert value.shape == (6,) and (value > 0).all()
    np.testing.assert_allclose(value, 200 * expected, rtol=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), stats["translator"], moved["batch_stats"])
    powers = run(ft(p1=1, p2=2), vars, view)[0]
    np.testing.assert_allclose(powers, 200 * expected_ft(vars, view, p1=1, p2=2)[0], rtol=1e-4)
    value, still = run(distiller, vars, view, train=False)
    jax.tree.map(np.testing.assert_array_equal, still, vars.stats)
    np.testing.assert_allclose(value, 200 * expected_ft(vars, view, train=False)[0], rtol=1e-4)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_ft_keeps_the_paraphraser_and_owns_a_translator(transfer, batch_norm):
    """Also of a paraphraser with statistics, and a translator without."""
    view, context, _, _ = transfer
    given, distiller = paraphrased(batch_norm=batch_norm), ft(batch_norm=not batch_norm)
    vars = init_vars(distiller, with_given(context, given))
    assert set(vars.params) == {"translator"} and set(vars.stats) == {"translator", "encoder"} and vars.policy == {}
    kernels = [vars.params["translator"][f"conv{i}"]["kernel"].shape[2:] for i in range(3)]
    assert kernels == [(4, 4), (4, 4), (4, 4)] and bool(vars.stats["translator"]) != batch_norm
    value, stats = run(distiller, vars, view)
    np.testing.assert_allclose(value, 200 * expected_ft(vars, view)[0], rtol=1e-4)
    for held in (vars.stats["encoder"], stats["encoder"]):
        jax.tree.map(np.testing.assert_array_equal, held["params"], given.params["encoder"])
        jax.tree.map(np.testing.assert_array_equal, held["batch_stats"], given.stats.get("encoder", {}))
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)


def test_factors_are_as_many_as_the_paraphrasers(transfer):
    vars = init_vars(ft(), with_given(transfer[1], paraphrased(rate=0.25)))
    assert vars.params["translator"]["conv2"]["bias"].shape == (2,)


def test_ft_trains_beside_ce_and_the_paraphraser_stays(nets):
    """Real steps: the student and the translator move, what was given does not."""
    distiller, tx = chain(ce=ce(), ft=ft()), optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.01, momentum=0.9))
    given = {"paraphraser": paraphrased(16, batch_norm=True)}
    context = make_init_context(
        nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8, initial_vars=given
    )
    parts = {"student": nets["student"], "distiller": distiller, "tx": tx}
    state = start = jax.jit(partial(init_state, context=context, **parts))(jax.random.key(0))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)
    checked = abstract_state(context=context._replace(initial_vars=shapes), **parts)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda x: x.shape, checked)
    taught = teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"])
    go = jax.jit(partial(train_step, **parts))
    for _ in range(3):
        state, metrics = go(state, taught, nets["batch"], jax.random.key(1))
    assert set(state.params["method"]) == {"ft"} and set(state.params["method"]["ft"]) == {"translator"}
    frozen = state.stats["method"]["ft"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, frozen["params"], given["paraphraser"].params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, frozen["batch_stats"], given["paraphraser"].stats["encoder"])
    for x, y in zip(*map(jax.tree.leaves, (start.params, state.params)), strict=True):
        assert np.isfinite(y).all() and not np.array_equal(x, y)
    assert {"terms/ce", "terms/ft", "loss"} <= set(metrics) and float(metrics["terms/ft"].total) > 0


def test_ft_refuses_what_is_no_paraphraser_of_the_teacher(transfer):
    context, key = transfer[1], jax.random.key(0)
    with pytest.raises(ValueError, match='ft: there is no trained paraphraser: give init.method="phase:NAME" of a ph'):
        ft().init(key, context._replace(initial_vars={}))
    some = paraphrased()
    strange = (
        paraphrased(6),
        Vars({"regressor": some.params}, {}, {}),
        NO_VARS,
        some._replace(params=some.params["encoder"]),
    )
    for given in strange:
        message = "ft: the given paraphraser is not one of maps of width 8, the teacher's: give init.method="
        with pytest.raises(ValueError, match=message):
            ft().init(key, with_given(context, given))
