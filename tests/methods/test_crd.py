"""CRD as a criterion: its variables, its value against a slow reference, constants, gradients, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers import negatives
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.crd import crd
from kd_jax.typing import InitContext, Outputs, RowUpdate, Vars, View

KEY = jax.random.key(5)
LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 1, 0, 1, 2, 0])
SMALL = {"dim": 4, "negatives": 5, "temperature": 0.2, "momentum": 0.3}


def outputs(rng, width, batch=3):
    return Outputs((), None, jnp.float32(rng.normal(0, 1, (batch, width))), jnp.zeros((batch, 3)))


def setting(labels=LABELS, widths=(6, 5), index=(7, 0, 2)):
    """A view of random pooled features and its context."""
    rng, index = np.random.default_rng(2), jnp.array(index, jnp.int32)
    student, teacher = (outputs(rng, width) for width in widths)
    view = View(jnp.zeros((3, 2, 2, 1)), student, (teacher,), None, jnp.asarray(labels)[index], index, jnp.int32(0))
    shapes = jax.eval_shape(lambda: view)
    return view, InitContext(shapes, 3, num_examples=len(labels), labels=labels)


def with_vars(distiller, context):
    return distiller, jax.jit(lambda: distiller.init(jax.random.key(1), context))()


def run(distiller, vars, view, train=True):
    """term, stats; the view must come back as it went in."""

    def both(vars, view):
        after, terms, logs, stats = distiller.apply(vars, view, jax.random.key(2), train)
        assert after is view and set(terms) == {""} and logs == {}
        return terms[""], stats

    return jax.jit(both)(vars, view)


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def embedded(params, seat, pooled):
    head = {k: np.float64(v) for k, v in params[seat].items()}
    return unit(np.float64(pooled) @ head["kernel"] + head["bias"])


def slow(said, banks, scale, index, drawn, temperature):
    """Values (B,) as published, and the constants; `scale` is changed where it is still empty."""
    rows, m, n = np.concatenate([index[:, None], drawn], 1), drawn.shape[1], len(banks["student"])
    total = 0.0
    for anchor, other in (("student", "teacher"), ("teacher", "student")):
        p = np.exp(np.einsum("bd,bmd->bm", said[anchor], banks[other][rows]) / temperature)
        p /= scale.setdefault(anchor, p.mean() * n)
        parts = np.concatenate([p[:, :1], np.full_like(p[:, 1:], m / n)], 1) / (p + m / n + 1e-7)
        total -= np.log(parts).sum(1)
    return total


def test_variables():
    view, context = setting()
    _, vars = with_vars(crd(**SMALL), context)
    assert jax.tree.map(jnp.shape, vars.params) == {
        "student": {"kernel": (6, 4), "bias": (4,)}, "teacher": {"kernel": (5, 4), "bias": (4,)},
    }  # fmt: skip
    assert set(vars.stats) == {"bank", "scale", "negatives"} and vars.policy == {}
    assert vars.stats["scale"] == {"student": 0.0, "teacher": 0.0}
    jax.tree.map(np.testing.assert_array_equal, vars.stats["negatives"], negatives.table(LABELS, 3))
    for name, leaf in jax.tree_util.tree_leaves_with_path(vars.stats["negatives"]):
        assert leaf.dtype == jnp.int32, name


def test_banks_and_heads_start_uniform():
    """Banks in +-sqrt(3 / dim), heads as PyTorch's linear layers; nothing is the same in the two seats."""
    labels = np.arange(500) % 3
    vars = with_vars(crd(dim=48), setting(labels, (100, 400))[1])[1]
    banks = vars.stats["bank"]
    for bank in banks.values():
        assert bank.shape == (500, 48) and bank.dtype == jnp.float32
        assert 0.249 < jnp.abs(bank).max() <= 0.25
        np.testing.assert_allclose([bank.mean(), bank.std()], [0, 0.25 / 3**0.5], atol=3e-3)
    assert abs(np.corrcoef(banks["student"].ravel(), banks["teacher"].ravel())[0, 1]) < 0.03
    for seat, bound in (("student", 0.1), ("teacher", 0.05)):
        kernel, bias = vars.params[seat]["kernel"], vars.params[seat]["bias"]
        assert 0.98 * bound < jnp.abs(kernel).max() <= bound and 0.5 * bound < jnp.abs(bias).max() <= bound
        np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.05)


def test_as_many_as_published():
    """CIFAR-100, resnet32x4 to resnet8x4: two heads of 256 to 128, two banks of 50,000 by 128."""
    _, context = setting(np.arange(50000) % 3, (256, 256))
    vars = jax.eval_shape(lambda: crd().init(KEY, context))
    assert sum(p.size for p in jax.tree.leaves(vars.params)) == 2 * 257 * 128
    assert sum(p.size for p in jax.tree.leaves(vars.stats["bank"])) == 2 * 50000 * 128


@pytest.mark.parametrize("kwargs", [{}, SMALL, SMALL | {"momentum": 0.0, "negatives": 40}])
def test_the_value_is_the_published_one(kwargs):
    view, context = setting()
    distiller, vars = with_vars(crd(**kwargs), context)
    value, stats = run(distiller, vars, view)
    seats = {"student": view.student, "teacher": view.teachers[0]}
    said = {seat: embedded(vars.params, seat, seats[seat].pooled) for seat in seats}
    banks, scale = {k: np.float64(x) for k, x in vars.stats["bank"].items()}, {}
    count, temperature = kwargs.get("negatives", 16384), kwargs.get("temperature", 0.07)
    batch = {"labels": view.labels, "index": view.index, "count": count}
    drawn = np.asarray(negatives.draw(negatives.table(LABELS, 3), jax.random.key(2), **batch))
    expected = 0.8 * slow(said, banks, scale, np.asarray(view.index), drawn, temperature)
    assert value.shape == (3,)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    for seat in seats:
        np.testing.assert_allclose(stats["scale"][seat], scale[seat], rtol=2e-5)
        written, momentum = stats["bank"][seat], kwargs.get("momentum", 0.5)
        assert isinstance(written, RowUpdate)
        np.testing.assert_array_equal(written.index, view.index)
        np.testing.assert_array_equal(written.table, vars.stats["bank"][seat])
        rows = unit(momentum * banks[seat][[7, 0, 2]] + (1 - momentum) * said[seat])
        np.testing.assert_allclose(written.rows, rows, rtol=1e-4, atol=1e-6)


def test_nothing_is_written_when_not_training():
    view, context = setting()
    distiller, vars = with_vars(crd(**SMALL), context)
    value, stats = run(distiller, vars, view, train=False)
    jax.tree.map(np.testing.assert_array_equal, stats, vars.stats)
    np.testing.assert_array_equal(value, run(distiller, vars, view)[0])


def test_constants_stay_once_set():
    view, context = setting()
    distiller, vars = with_vars(crd(**SMALL), context)
    constants = {"student": jnp.float32(40.0), "teacher": jnp.float32(3.0)}
    value, stats = run(distiller, vars._replace(stats=vars.stats | {"scale": constants}), view)
    assert stats["scale"] == constants and not np.allclose(value, run(distiller, vars, view)[0], rtol=0.01)


@jax.jit
def with_gradients(vars, pooled, view):
    def loss(params, pooled):
        seats = (view.student._replace(pooled=pooled[0]), (view.teachers[0]._replace(pooled=pooled[1]),))
        changed = view._replace(student=seats[0], teachers=seats[1])
        terms, stats = crd(**SMALL).apply(vars._replace(params=params), changed, KEY, True)[1::2]
        return terms[""].mean(), stats

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(vars.params, pooled)


def test_gradients_reach_heads_and_both_networks():
    view, context = setting()
    vars = with_vars(crd(**SMALL), context)[1]
    _, grads = with_gradients(vars, (view.student.pooled, view.teachers[0].pooled), view)
    assert all(jnp.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads)) and len(jax.tree.leaves(grads)) == 6


def test_zeros_are_finite():
    """Embeddings of zeros, rows of zeros, both."""
    view, context = setting()
    vars = with_vars(crd(**SMALL), context)[1]
    none = jax.tree.map(jnp.zeros_like, vars)
    pooled = (0 * view.student.pooled, 0 * view.teachers[0].pooled)
    for params, bank in ((none, vars), (vars, none), (none, none)):
        stats = vars.stats | {"bank": bank.stats["bank"]}
        (value, stats), grads = with_gradients(Vars(params.params, stats, {}), pooled, view)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, stats, grads)))
    assert not any(x.rows.any() for x in stats["bank"].values())


def test_the_first_of_several_teachers_is_read():
    view, context = setting()
    distiller, vars = with_vars(crd(**SMALL), context)
    several = view._replace(teachers=(view.teachers[0], outputs(np.random.default_rng(9), 5)))
    np.testing.assert_array_equal(run(distiller, vars, several)[0], run(distiller, vars, view)[0])


def test_weights_and_needs():
    view, context = setting()
    one = run(*with_vars(crd(**SMALL, weight=1.0), context), view)[0]
    scheduled = crd(**SMALL, weight=lambda step: 3.0 + step)
    np.testing.assert_allclose(run(*with_vars(scheduled, context), view)[0], 3 * one, rtol=1e-6)
    assert crd().needs == {"teacher.pooled", "index", "labels"}
    off = crd(weight=0.0)
    assert off.init(None, None) == NO_VARS and off.needs == frozenset()


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"dim": 0}, "crd: dim must be at least 1, got 0"),
    ({"negatives": 0}, "crd: negatives must be from 1 to 2"),
    ({"negatives": 2**31}, "crd: negatives must be from 1 to 2"),
    ({"temperature": 0.0}, "crd: temperature must be a finite number above 0, got 0.0"),
    ({"temperature": float("nan")}, "crd: temperature must be a finite number above 0, got nan"),
    ({"momentum": 1.1}, "crd: momentum must be from 0 to 1, got 1.1"),
    ({"momentum": -0.1}, "crd: momentum must be from 0 to 1, got -0.1"),
])  # fmt: skip
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        crd(**kwargs)


def test_what_it_cannot_do_without():
    view, context = setting()
    for labels, n, message in (
        (None, 12, "crd: needs the label of every training example, got 0 of 12"),
        (LABELS, 0, "crd: needs the label of every training example, got 12 of 0"),
        (LABELS[:5], 12, "crd: needs the label of every training example, got 5 of 12"),
        (None, 0, "crd: needs the label of every training example, got 0 of 0"),
        (np.ones(12, int), 12, "negatives: all 12 examples are of class 1"),
    ):
        with pytest.raises(ValueError, match=message):
            crd().init(KEY, context._replace(labels=labels, num_examples=n))
    message = "crd: needs the examples' positions in the training set"
    with pytest.raises(ValueError, match=message):
        crd().init(KEY, context._replace(view_shapes=context.view_shapes._replace(index=None)))
    distiller, vars = with_vars(crd(**SMALL), context)
    with pytest.raises(ValueError, match=message):
        distiller.apply(vars, view._replace(index=None), KEY, True)
