"""The policy step: its hypergradient against differences, on problems small enough for float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import kd_jax
from kd_jax import methods
from kd_jax.engine import bilevel, optim
from kd_jax.layers import policy
from kd_jax.methods.base import NO_VARS, no_vars
from kd_jax.typing import Distiller, Outputs, Search


class Net(nn.Module):
    """Two layers without statistics."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, train=False, after=-1):
        h = nn.tanh(nn.Dense(4, name="a", param_dtype=x.dtype)(x.reshape(x.shape[0], -1)))
        return Outputs((x,), None, h, nn.Dense(self.num_classes, name="b", param_dtype=x.dtype)(h))


def weighted(**search):
    """The task loss, each class's part weighted by the policy; without a policy, plain."""

    def init(key, context):
        return NO_VARS._replace(policy={"w": jnp.linspace(-0.5, 0.5, 3)})

    def apply(vars, view, key, train):
        scale = jnp.exp(vars.policy["w"])[view.labels] if vars.policy else 1.0
        noise = 1 + 0.1 * jax.random.normal(key, view.labels.shape)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(view.student.logits), view.labels[:, None], 1)[:, 0]
        return view, {"": scale * nll * noise}, {}, {}

    return Distiller(init, apply, search=Search(epochs=1, **search))


def beside_a_task(**search):
    """A term with the policy, and the task's loss, in which it is not."""
    return methods.chain(task=methods.ce(weight=2.0), other=weighted(**search))


def setting(distiller, tx, dtype=jnp.float32):
    image = jax.random.normal(jax.random.key(0), (12, 2, 2, 1), dtype)
    context = kd_jax.make_init_context(Net(), (), image_shape=(2, 2, 1), batch_size=6)
    parts = {"student": Net(), "distiller": distiller, "tx": tx}
    state = kd_jax.init_state(jax.random.key(1), context=context, **parts)
    state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype.kind == "f" else x, state)
    batches = [{"image": image[i : i + 6], "label": (jnp.arange(6) + i) % 3} for i in (0, 6)]
    return state, batches, parts


def value_of(policy, state, batches, parts):
    """The outer loss after one update, by the train step itself."""
    key = jax.random.key(2)
    search_key = bilevel.fold(jax.random.fold_in(key, state.step), "search")
    both = lambda params, policy, batch, k: bilevel.objective(  # noqa: E731
        params, policy, state, (), batch, k, student=parts["student"], distiller=parts["distiller"]
    )
    grads = jax.grad(lambda *args: both(*args)[0])(state.params, policy, batches[0], search_key)
    ahead = optax.apply_updates(state.params, parts["tx"].update(grads, state.opt, state.params)[0])
    outer = parts["distiller"].search.outer
    value, (_, terms, _, _) = both(
        ahead, {} if outer == "plain" else policy, batches[1], bilevel.fold(search_key, "outer")
    )
    return terms["other"].mean() if outer == "consistency" else value


def hypergradient(state, batches, parts, key=None):
    """What policy_step hands to its optimiser."""
    key = jax.random.key(2) if key is None else key
    gradient = {}

    class Spy:
        def update(self, grads, opt, params):
            gradient.update(grads)
            return grads, opt

    real, bilevel.policy_adam = bilevel.policy_adam, lambda search: Spy()
    try:
        _, metrics = kd_jax.engine.policy_step(state, ((), batches[0]), ((), batches[1]), key, **parts)
    finally:
        bilevel.policy_adam = real
    return gradient, metrics["outer"]


@pytest.mark.parametrize("outer", ["plain", "refined", "consistency"])
@pytest.mark.parametrize("how", ["exact", "finite"])
def test_the_hypergradient_is_that_of_the_look_ahead(x64, outer, how):
    """Against central differences of the outer loss, momentum and weight decay in the update."""
    tx = optim.sgd(lambda _: 0.3, momentum=0.9, weight_decay=1e-2)
    make = beside_a_task if outer == "consistency" else weighted
    state, batches, parts = setting(make(outer=outer, hypergradient=how), tx, jnp.float64)
    for _ in range(2):  # momentum that is not zero
        state, _ = kd_jax.train_step(state, None, batches[0], jax.random.key(5), **parts)
    gradient, outer_loss = hypergradient(state, batches, parts)
    label = lambda w: {"other": {"w": w}} if outer == "consistency" else {"w": w}  # noqa: E731
    value = lambda w: float(value_of(label(w), state, batches, parts))  # noqa: E731
    gradient = gradient.get("other", gradient)
    w, step = np.asarray(state.policy.get("other", state.policy)["w"]), 1e-5
    slow = [(value(w + step * e) - value(w - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(gradient["w"], slow, rtol=1e-4 if how == "exact" else 2e-3)
    assert float(outer_loss.total / outer_loss.count) == pytest.approx(value(w), rel=1e-6)


def test_without_momentum_it_is_another_one(x64):
    """The update that is looked through is the phase's own."""
    gradients = []
    for momentum in (0.0, 0.9):
        tx = optim.sgd(lambda _: 0.3, momentum=momentum, weight_decay=0.0)
        state, batches, parts = setting(weighted(), tx, jnp.float64)
        warm, _, _ = setting(weighted(), optim.sgd(lambda _: 0.3, momentum=0.9, weight_decay=0.0), jnp.float64)
        for _ in range(2):
            state, _ = kd_jax.train_step(state, None, batches[0], jax.random.key(5), **parts)
        gradients.append(np.asarray(hypergradient(state, batches, parts)[0]["w"]))
    assert np.abs(gradients[0] - gradients[1]).max() > 1e-2 * np.abs(gradients[0]).max()


def test_only_the_policy_moves():
    state, batches, parts = setting(weighted(rate=0.1), optax.sgd(0.1, momentum=0.9))
    step = jax.jit(
        lambda s: kd_jax.engine.policy_step(s, ((), batches[0]), ((), batches[1]), jax.random.key(2), **parts)
    )
    after, _ = step(state)
    for name in ("step", "params", "stats", "opt"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(after, name))
    assert not np.array_equal(after.policy["w"], state.policy["w"])
    assert jax.tree.structure(after.policy_opt) == jax.tree.structure(state.policy_opt)
    assert int(jax.tree.leaves(after.policy_opt)[0]) == 1


def test_the_policy_finds_the_class_of_the_outer_batch():
    """Only class 0 counts outside: its weight inside rises above the others'."""
    state, batches, parts = setting(weighted(rate=0.1), optax.sgd(0.5))
    outer_batch = {"image": batches[0]["image"][::3], "label": batches[0]["label"][::3]}
    assert (outer_batch["label"] == 0).all()
    step = jax.jit(
        lambda s: kd_jax.engine.policy_step(s, ((), batches[0]), ((), outer_batch), jax.random.key(2), **parts)[0]
    )
    for _ in range(20):
        state = step(state)
    gained = np.asarray(state.policy["w"]) - np.linspace(-0.5, 0.5, 3)
    assert gained[0] > 0.5 and gained[0] > gained[1:].max() + 0.5


@pytest.mark.parametrize("outer", ["plain", "refined", "consistency"])
def test_a_score_is_added_with_the_key_of_each_sample(outer):
    """A policy in the outer loss draws there once more."""
    scored, sampled, values = set(), set(), []

    def spelled(key):
        return tuple(np.asarray(jax.random.key_data(key)).tolist())

    def score(policy, key, value):
        scored.add(spelled(key))
        values.append(value)
        return {"w": jnp.full(3, 7.0)}

    def apply(vars, view, key, train):
        if vars.policy:
            sampled.add(spelled(key))
        return plain.apply(vars, view, key, train)

    plain = weighted(outer=outer)
    distiller = methods.chain(a=Distiller(plain.init, apply, search=plain.search._replace(score=score)))
    state, batches, parts = setting(distiller, optax.sgd(0.1))
    with_score, metric = hypergradient(state, batches, parts)
    assert scored == sampled and len(scored) == (1 if outer == "plain" else 2)
    parts["distiller"] = methods.chain(a=Distiller(plain.init, plain.apply, search=plain.search))
    without, _ = hypergradient(state, batches, parts)
    np.testing.assert_allclose(with_score["a"]["w"], without["a"]["w"] + 7 * len(scored), rtol=1e-6)
    assert all(float(value) == pytest.approx(float(metric.total / metric.count)) for value in values)


def test_the_mean_score_is_the_gradient_of_the_mean():
    """RELAX with the policy in the outer loss alone: what an update does not change is felt through its draw there."""
    gain, on = jnp.array([1.0, 3.0]), jnp.array([[1.0, 2.0], [3.0, 4.0]])

    def init(key, context):
        return NO_VARS._replace(policy=policy.init(key, estimator="relax", size=2))

    def apply(vars, view, key, train):
        drawn = policy.draw(vars.policy, key, estimator="relax")
        return view, {"": gain[drawn.index] + jnp.sum(on[drawn.index] * drawn.on) + 0 * view.labels}, {}, {}

    search = Search(epochs=1, outer="refined", score=policy.score)
    state, batches, parts = setting(Distiller(init, apply, search=search), optax.sgd(0.1))

    def mean(values):
        added = jnp.sum(on * values["probability"], axis=1)
        return jax.nn.softmax(values["weight"]) @ (gain + added)

    def one(key):
        return hypergradient(state, batches, parts, key)[0]

    estimates = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 8000))
    truth = jax.grad(mean)({name: state.policy[name] for name in ("probability", "weight")})
    for name, value in truth.items():
        error = np.std(estimates[name], axis=0) / 8000**0.5
        np.testing.assert_array_less(np.abs(np.mean(estimates[name], axis=0) - value), 4 * error)
        assert (error < 0.3).all()


def test_two_searches_are_refused():
    with pytest.raises(ValueError, match="chain: a and b both search a policy; one can"):
        methods.chain(a=weighted(), b=weighted())


def test_no_search_no_state():
    distiller = methods.chain(ce=methods.ce())
    state, _, _ = setting(distiller, optax.sgd(0.1))
    assert state.policy == {} and state.policy_opt == {} and distiller.search is None
    assert no_vars(None, None) == NO_VARS
