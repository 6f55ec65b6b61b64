"""Negatives: of other classes, different, evenly drawn, a function of key and index alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kd_jax.layers import negatives

SKEWED = np.array([2, 0, 1, 1, 4, 1, 0, 1, 1, 2, 1, 1, 4])  # 13 examples, 7 of class 1, none of class 3


@partial(jax.jit, static_argnames="count")
def drawn(table, key, labels, index, count):
    return negatives.draw(table, key, labels=labels, index=index, count=count)


def draw(labels, index, count, key=0, classes=5):
    """(B, count) for the examples at `index`."""
    index = np.asarray(index, np.int32)
    table = negatives.table(labels, classes)
    out = drawn(table, jax.random.key(key), np.asarray(labels)[index], index, count)
    assert out.shape == (len(index), count) and out.dtype == jnp.int32
    return np.asarray(out)


def test_table():
    table = negatives.table(SKEWED, 5)
    assert all(x.dtype == jnp.int32 for x in table)
    np.testing.assert_array_equal(table.order, [1, 6, 2, 3, 5, 7, 8, 10, 11, 0, 9, 4, 12])
    np.testing.assert_array_equal(table.start, [0, 2, 9, 11, 11])
    np.testing.assert_array_equal(table.count, [2, 7, 2, 0, 2])
    np.testing.assert_array_equal(table.side, [4, 3, 4, 4, 4])


@pytest.mark.parametrize("count", [1, 4, 6, 11, 25])
def test_every_other_example_equally_often(count):
    """Once or never while there are enough; where there are not, the floor or the ceiling of count / n."""
    for key in range(5):
        for i, chosen in enumerate(draw(SKEWED, range(13), count, key)):
            others = np.flatnonzero(SKEWED != SKEWED[i])
            assert set(chosen) <= set(others)
            times = np.bincount(chosen, minlength=13)[others]
            assert {*times} <= {count // len(others), -(-count // len(others))}


def test_as_many_as_there_are_are_all_of_them():
    out = draw(SKEWED, range(13), 6)
    for i in np.flatnonzero(SKEWED == 1):
        np.testing.assert_array_equal(np.sort(out[i]), np.flatnonzero(SKEWED != 1))


@pytest.mark.parametrize("others", [1, 2, 3, 4])
def test_few_others(others):
    labels = np.array([0] * others + [1] * 3)
    out = draw(labels, [others], others, classes=2)
    np.testing.assert_array_equal(np.sort(out[0]), np.arange(others))


def test_at_the_size_of_cifar(rng):
    """The published number of negatives of 50,000 examples, and two classes that halve them."""
    for classes in (100, 2):
        labels = rng.permutation(np.arange(50000) % classes)
        index = rng.permutation(50000)[:4]
        for i, chosen in zip(index, draw(labels, index, 16384, classes=classes), strict=True):
            assert len(np.unique(chosen)) == 16384 and not (labels[chosen] == labels[i]).any()
            # 500 bins over the range, each with as many as the others: the spread of draws without repeats
            bins = np.bincount(chosen // 100, minlength=500)
            have = np.bincount(np.flatnonzero(labels != labels[i]) // 100, minlength=500)
            share = 16384 / have.sum()
            assert 0.75 < ((bins - have * share) ** 2 / (have * share * (1 - share))).mean() < 1.25


def uneven(out, n):
    """p-values: of each place being even over n examples, of each pair of places over n (n - 1); pairs differ."""
    alone = [stats.chisquare(np.bincount(x, minlength=n)).pvalue for x in out.T]
    pairs = []
    for i, j in zip(*np.triu_indices(out.shape[1], 1), strict=True):
        counts = np.bincount(out[:, i] * n + out[:, j], minlength=n * n).reshape(n, n)
        assert not np.diag(counts).any()
        pairs.append(stats.chisquare(counts[~np.eye(n, dtype=bool)]).pvalue)
    return alone, pairs


@pytest.mark.parametrize(("n", "examples"), [(3, 40000), (5, 40000), (10, 40000), (40, 100000)])
def test_draws_are_even(n, examples):
    """Every example's own, and all pairs: examples of one class, n others. Small sets and large ones."""
    classes, one = np.repeat([0, 1], [n, 2000 if n == 40 else 3]), n
    table = negatives.table(classes, 2)
    index = jnp.arange(examples, dtype=jnp.int32)  # as many keys; the draw reads no more of it
    out = drawn(table, jax.random.key(4), jnp.full(examples, classes[one]), index, min(n, 6))
    alone, pairs = uneven(np.asarray(out), n)
    assert min(alone) > 1e-3 and min(pairs) > 1e-3 / len(pairs), (alone, pairs)


def test_keys_of_one_example_are_even():
    table = negatives.table(np.repeat([0, 1], [7, 2]), 2)
    keys = jax.random.split(jax.random.key(1), 40000)
    one = {"labels": jnp.array([1]), "index": jnp.array([8])}
    out = jax.jit(jax.vmap(lambda key: negatives.draw(table, key, **one, count=4)[0]))(keys)
    alone, pairs = uneven(np.asarray(out), 7)
    assert min(alone) > 1e-3 and min(pairs) > 1e-4


def test_a_draw_is_a_function_of_key_and_index():
    labels = np.arange(50) % 5
    plain = draw(labels, range(20), 12)
    np.testing.assert_array_equal(draw(labels, range(19, -1, -1), 12)[::-1], plain)
    np.testing.assert_array_equal(draw(labels, [7], 12), plain[7:8])
    np.testing.assert_array_equal(draw(labels, range(20), 5), plain[:, :5])
    assert (draw(labels, range(20), 12, key=1) != plain).mean() > 0.8
    assert (plain[5:10] != plain[:5]).mean() > 0.8  # of the same classes


def test_nothing_is_sorted():
    table = negatives.table(np.arange(50) % 5, 5)
    text = str(jax.make_jaxpr(lambda i: negatives.draw(table, jax.random.key(0), labels=i, index=i, count=7))(
        jnp.arange(3)))  # fmt: skip
    assert " sort[" not in text and " while[" in text and "[3,50]" not in text


@pytest.mark.parametrize(("labels", "message"), [
    ([1, 1, 1], "negatives: all 3 examples are of class 1; two classes at least wanted"),
    ([0, 1, 5], r"negatives: labels \(N,\) from 0 to 4 wanted, got 0 to 5"),
    ([0, 1, -1], r"negatives: labels \(N,\) from 0 to 4 wanted, got -1 to 1"),
    ([], r"negatives: labels \(N,\) from 0 to 4 wanted, got shape \(0,\)"),
    ([[0, 1]], r"negatives: labels \(N,\) from 0 to 4 wanted, got shape \(1, 2\)"),
])  # fmt: skip
def test_refusals(labels, message):
    with pytest.raises(ValueError, match=message):
        negatives.table(labels, 5)
