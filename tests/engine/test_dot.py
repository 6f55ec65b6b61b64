"""DOT against the published update written out in numpy, and which parameters a loss reaches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import methods, models
from kd_jax.engine import optim
from kd_jax.engine.dot import dot, loss_dependencies
from kd_jax.engine.objective import objective, total
from kd_jax.engine.state import trained
from tests.conftest import TINY

REACHED = ({"both": True, "task": True, "other": False}, {"both": True, "task": False, "other": True})
STEPS, KEY = 6, jax.random.key(0)


def rate(step):
    return jnp.where(step < 3, 0.1, 0.02)


def steps(tx, pairs, params, feed=lambda pair: pair):
    """The parameters after every step."""
    state, history = tx.init(params), []
    update = jax.jit(tx.update)
    for pair in pairs:
        updates, state = update(feed(pair), state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


@pytest.fixture
def case(rng):
    """Parameters, and STEPS pairs of gradients that are 0 where the loss does not reach."""
    names = ("both", "task", "other")
    params = {name: jnp.asarray(rng.normal(size=3), jnp.float32) for name in names}
    pairs = [
        tuple({n: jnp.asarray(rng.normal(size=3) * flags[n], jnp.float32) for n in names} for flags in REACHED)
        for _ in range(STEPS)
    ]
    return params, pairs


def test_the_published_update(case):
    """Task loss first, as if gradients that do not exist were None; decay where the docstring has it."""
    params, pairs = case
    tx = dot(rate, dependencies=REACHED, momentum=0.9, delta=0.075, weight_decay=0.01)
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    task, other = {}, {}
    for i, (pair, ours) in enumerate(zip(pairs, steps(tx, pairs, params), strict=True)):
        lr = 0.1 if i < 3 else 0.02
        reached = [[n for n in p if flags[n]] for flags in REACHED]
        g, h = ({n: np.asarray(x[n], np.float64) for n in names} for x, names in zip(pair, reached, strict=True))
        moves = {}
        for name in g:
            m = 0.9 - 0.075 if name in h else 0.9
            task[name] = m * task.get(name, 0) + g[name] + 0.01 * p[name]
            moves[name] = task[name]
        for name in h:
            d = h[name] if name in g else h[name] + 0.01 * p[name]
            other[name] = (0.9 + 0.075 if name in g else 0.9) * other.get(name, 0) + d
            moves[name] = moves.get(name, 0) + other[name]
        for name in p:
            p[name] = p[name] - lr * moves[name]
            np.testing.assert_allclose(ours[name], p[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rates", [{}, {"fit": 0.5}])
def test_with_equal_momenta_it_is_sgd(case, rates):
    """And members keep their own learning rates."""
    (params, pairs), tree = case, lambda x: {"student": {"a": x["both"]}, "method": {"fit": x["other"]}}
    nest = lambda pair: tuple(map(tree, pair))  # noqa: E731
    added = lambda pair: jax.tree.map(jnp.add, *nest(pair))  # noqa: E731
    make = partial(optim.sgd, momentum=0.9, weight_decay=0.01)
    plain = steps(optim.grouped(make, rate, rates), pairs, tree(params), added)
    settings = {"dependencies": tuple(map(tree, REACHED)), "weight_decay": 0.01, "lr_multipliers": rates}
    ours = steps(dot(rate, delta=0.0, **settings), pairs, tree(params), nest)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), ours, plain)
    apart = steps(dot(rate, delta=0.05, **settings), pairs, tree(params), nest)
    np.testing.assert_array_equal(apart[0]["student"]["a"], ours[0]["student"]["a"])  # no buffer holds anything yet
    assert np.abs(apart[-1]["student"]["a"] - ours[-1]["student"]["a"]).max() > 1e-3
    np.testing.assert_array_equal(apart[-1]["method"]["fit"], ours[-1]["method"]["fit"])


def test_what_no_loss_reaches_decays():
    params, zero = {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}
    tx = dot(lambda step: 0.1, dependencies=({"w": False}, {"w": False}), weight_decay=0.5)
    plain = steps(optim.sgd(lambda step: 0.1, weight_decay=0.5), [zero] * 3, params)
    np.testing.assert_array_equal(steps(tx, [(zero, zero)] * 3, params)[-1]["w"], plain[-1]["w"])


def test_without_two_gradients_it_is_sgd(case):
    """What a phase with delta 0 trains by: one gradient, one buffer for every parameter, the same state."""
    (params, pairs), tree = case, lambda x: {"student": {"a": x["both"]}, "method": {"fit": x["other"]}}
    grads = [tree(task) for task, _ in pairs]
    make = partial(optim.sgd, momentum=0.9, weight_decay=0.01)
    plain, ours = (
        optim.grouped(make, rate, {"fit": 0.5}),
        dot(rate, delta=0.0, weight_decay=0.01, lr_multipliers={"fit": 0.5}),
    )
    assert jax.tree.structure(plain.init(tree(params))) == jax.tree.structure(ours.init(tree(params)))
    after = (steps(tx, grads, tree(params))[-1] for tx in (plain, ours))
    jax.tree.map(np.testing.assert_array_equal, *after)
    with pytest.raises(ValueError, match="dot: dependencies must be two trees of booleans unless delta is 0"):
        dot(rate, delta=0.05)


def buffers(tx, params):
    return sum(leaf.size for leaf in jax.tree.leaves(tx.init(params)) if leaf.ndim)


def test_a_second_buffer_only_where_both_reach(case):
    params, _ = case
    assert buffers(dot(rate, dependencies=REACHED), params) == 4 * 3


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"delta": 0.1}, "delta must be 0, or below momentum and 1 - momentum, got 0.1"),
        ({"delta": -0.01}, "delta must"),
        ({"momentum": 0.05, "delta": 0.05}, "delta must"),
        ({"delta": float("nan")}, "delta must"),
        ({"momentum": 1.0, "delta": 0.0}, "momentum must be in"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
    ],
)
def test_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        dot(rate, dependencies=REACHED, **kwargs)
    dot(rate, dependencies=REACHED, delta=0.09)


def through_scan(p):
    """The carried values move one place a round, so that c reaches the first after two."""

    def body(carry, x):
        a, b, c = carry
        return (b, c, jax.lax.stop_gradient(a)), x * p["x"]

    (a, _, _), ys = jax.lax.scan(body, (p["a"], p["b"], p["c"]), jnp.ones(3) * p["xs"])
    return a, ys.sum()


def loop(p):
    """A while loop has no reverse derivative; a loss can only read a detached one."""
    p = jax.lax.stop_gradient(p)
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * p["x"]), (0, p["a"]))[1]


@jax.custom_jvp
def stair(x):
    return jax.lax.stop_gradient(jnp.round(x))


stair.defjvp(lambda x, t: (stair(*x), t[0]))

PIECES = {  # name -> (function of scalars, who the first output depends on, who the second)
    "plain": (lambda p: (p["a"] * p["b"], p["b"] + 1), "ab", "b"),
    "detached": (lambda p: (jax.lax.stop_gradient(p["a"]) * p["b"], jax.lax.stop_gradient(p["a"])), "b", ""),
    "through integers": (lambda p: (p["a"] * (p["b"] > 0), p["a"].astype(int).astype(float) + p["c"]), "a", "c"),
    "jit": (lambda p: jax.jit(lambda p: (p["a"] * p["c"], p["b"]))(p), "ac", "b"),
    "checkpoint": (lambda p: jax.checkpoint(lambda a, b, c: (a * b, jnp.sin(c)))(p["a"], p["b"], p["c"]), "ab", "c"),
    "cond": (lambda p: (jax.lax.cond(p["x"] > 0, lambda: p["a"], lambda: p["b"] * 2), p["x"]), "ab", "x"),
    "while": (lambda p: (loop(p) * p["c"], p["b"]), "c", "b"),
    "steps": (lambda p: (jnp.floor(p["a"]) + p["b"], jnp.sign(p["c"]) * p["a"]), "b", "a"),
    "custom": (lambda p: (stair(p["a"]), jax.nn.relu(p["b"])), "a", "b"),
    "scan": (through_scan, "abc", ["x", "xs"]),
    "a zero factor": (lambda p: (0 * p["a"], jnp.zeros(())), "a", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", PIECES)
def test_reach(name):
    function, *wanted = PIECES[name]
    params = {n: jnp.float32(0.5) for n in ("a", "b", "c", "x", "xs")}
    for i, names in enumerate(wanted):
        dependencies = loss_dependencies(lambda p, i=i: function(p)[i], params)
        assert {n for n, yes in dependencies.items() if yes} == set(names)
        assert dependencies == loss_dependencies(lambda p, i=i: function(p)[i], jax.eval_shape(lambda: params))


def test_the_members_of_a_chain():
    """The hint reaches the stage it reads and those before, the task loss all of the student, nobody's regressor."""
    nets = [models.create("resnet8", 5, **TINY)] * 2
    distiller = methods.chain(ce=methods.ce(), fit=methods.fitnet(stage=2))
    context = kd_jax.make_init_context(nets[0], (nets[1],), image_shape=(8, 8, 3), batch_size=4)
    tx = dot(lambda step: 0.1, dependencies=({}, {}))._replace(init=lambda params: ())
    parts = {"student": nets[0], "distiller": distiller}
    state = jax.eval_shape(lambda: kd_jax.init_state(KEY, context=context, tx=tx, **parts))
    shapes = context.view_shapes

    def loss(params, name):
        image, outputs = jnp.zeros(shapes.image.shape), jax.tree.map(lambda x: jnp.zeros(x.shape), shapes.teachers)
        batch, at = {"image": image, "label": jnp.zeros(4, int)}, state._replace(step=0, stats=blank(state.stats))
        terms = objective(params, {}, at, outputs, batch, KEY, **parts)[1][1]
        return total({name: terms[name]}, jnp.ones(4))

    blank = partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype))
    params = trained(state.params, "all")
    task, other = (loss_dependencies(partial(loss, name=name), params) for name in ("ce", "fit"))
    each = {name: set(jax.tree.leaves(task["student"][name])) for name in task["student"]}
    assert set(map(str, each.values())) == {"{True}"} and set(jax.tree.leaves(task["method"])) == {False}
    hint = {name: set(jax.tree.leaves(flags)) for name, flags in other["student"].items()}
    near = {"conv1", "bn1", "layer1", "layer2"}
    assert hint == {**dict.fromkeys(near, {True}), "layer3": {False}, "fc": {False}}
    assert set(jax.tree.leaves(other["method"])) == {True}


def test_a_step_with_two_gradients(nets):
    """`train_step` with a task group: what it hands over is what DOT takes, and its first step is SGD's."""
    distiller = methods.chain(ce=methods.ce(), kd=methods.kd())
    context = kd_jax.make_init_context(nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8)
    every = lambda params: jax.tree.map(lambda _: True, params)  # noqa: E731
    plain = optim.sgd(lambda step: 0.05)
    start = partial(kd_jax.init_state, KEY, student=nets["student"], distiller=distiller, context=context)
    params = jax.eval_shape(lambda: start(tx=plain)).params
    paired = dot(lambda step: 0.05, dependencies=(every(params), every(params)))
    taught = kd_jax.teacher_outputs(nets["teacher"], nets["tv"], nets["batch"]["image"])
    after = []
    for tx, task in ((plain, None), (paired, frozenset({"ce"}))):
        parts = {"student": nets["student"], "distiller": distiller, "tx": tx, "task_terms": task}
        state = jax.jit(partial(start, tx=tx))()
        step = jax.jit(lambda state, parts=parts: kd_jax.train_step(state, taught, nets["batch"], KEY, **parts)[0])
        after.append([state := step(state) for _ in range(3)])
    first, last = ([run[i].params["student"] for run in after] for i in (0, -1))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), *first)
    assert float(jnp.abs(last[0]["fc"]["kernel"] - last[1]["fc"]["kernel"]).max()) > 1e-4
