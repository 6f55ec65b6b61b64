"""Stratified parts of a training set, and the keys that ask for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_jax import InputError, config, data
from kd_jax.data.sources import Arrays
from kd_jax.data.subset import shares, subset
from kd_jax.train import run
from tests.conftest import tree

pytestmark = pytest.mark.usefixtures("tiny_resnet8", "shared_programs")

COUNTS = [50, 30, 15, 5]


def source(counts=COUNTS):
    """Image i is i, in shuffled classes."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    return Arrays(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], labels, len(counts))


def drawn_of(whole, amount, *, seed):
    positions = subset(whole, amount, seed=seed)
    return whole if positions is None else whole.take(positions)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(20, [10, 6, 3, 1]), (0.2, [10, 6, 3, 1]), (0.5, [25, 15, 8, 2]), (4, [1, 1, 1, 1]), (100, COUNTS), (1, None)],
)
def test_every_class_keeps_its_share(amount, expected):
    if expected is None:
        with pytest.raises(InputError, match="data.subset: 1 examples for 4 classes; each must keep at least one"):
            subset(source(), amount, seed=0)
        return
    part = drawn_of(source(), amount, seed=0)
    assert np.bincount(part.labels).tolist() == expected and part.num_classes == 4
    index = part.images.ravel()
    assert (np.diff(index.astype(int)) > 0).all()  # each once, in order
    np.testing.assert_array_equal(part.labels, source().labels[index])  # images keep their labels


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any), st.data())
def test_shares(counts, drawn):
    counts = np.array(counts)
    present = counts > 0
    n = drawn.draw(st.integers(int(present.sum()), int(counts.sum())))
    sizes = shares(counts, n)
    assert sizes.sum() == n and (sizes <= counts).all() and (sizes[present] >= 1).all()
    exact = n * counts / counts.sum()
    assert (sizes <= np.maximum(np.ceil(exact), 1)).all()
    if (exact[present] >= 1).all():
        assert (abs(sizes - exact) < 1).all()


def test_the_ones_for_rare_classes_come_from_the_most_favoured():
    assert shares(np.array([54, 30, 14, 1, 1]), 10).tolist() == [5, 2, 1, 1, 1]  # exact: 5.4, 3, 1.4, 0.1, 0.1


def test_the_seed_decides_which():
    parts = [drawn_of(source(), 20, seed=s).images.ravel() for s in (0, 0, 1, 2)]
    np.testing.assert_array_equal(parts[0], parts[1])
    different = [len(set(parts[0]) ^ set(other)) for other in parts[2:]]
    assert min(different) > 10
    drawn = np.concatenate([drawn_of(source(), 20, seed=s).images.ravel() for s in range(100)])
    assert np.bincount(drawn, minlength=100).min() > 3  # every example has its chance


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (101, "data.subset: 101 examples asked for, but the training set has 100"),
        (0.01, "data.subset: 1 examples for 4 classes"),
        (0.001, "data.subset: 0 examples for 4 classes"),
        (2.5, "data.subset: must be a fraction below 1 or a whole number, got 2.5"),
        (-1, "data.subset: must be a fraction"),
    ],
)
def test_what_cannot_be_drawn(amount, message):
    with pytest.raises(InputError, match=message):
        subset(source(), amount, seed=0)


def test_only_the_training_set_is_cut():
    whole = data.load("digits")
    part = data.load("digits", subset=0.1, seed=3)
    assert part.test is whole.test and (part.mean, part.std) == (whole.mean, whole.std)
    assert len(part.train) == 144 and part.source.startswith("144 of the 1437 of scikit-learn")
    np.testing.assert_array_equal(part.train.images, drawn_of(whole.train, 144, seed=3).images)
    np.testing.assert_array_equal(part.train.images, whole.train.images[part.share.positions])
    assert part.share.whole == 1437 and whole.share is None
    assert data.load("digits", subset=1437) is not None and data.load("digits", subset=0).train is whole.train


@pytest.mark.parametrize(("seeds", "expected"), [({"seed": 4}, 4), ({"seed": 4, "data__seed": 9}, 9)])
def test_a_run_passes_every_key(tmp_path, monkeypatch, seeds, expected):
    asked = {}

    def load(name, **settings):
        asked.update(settings, name=name)
        raise InputError("enough")

    monkeypatch.setattr(run.data, "load", load)
    keys = {"name": "folder:x", "dir": "d", "size": 8, "test_fraction": 0.3, "subset": 0.5}
    with pytest.raises(InputError, match="enough"):
        run.run(tree(**seeds, **{f"data__{k}": v for k, v in keys.items()}), str(tmp_path))
    assert {k: asked[k] for k in keys} == keys and asked["seed"] == expected


def test_a_run_on_a_subset(tmp_path, capsys):
    summary = run.run(tree(data__subset=10), str(tmp_path))
    assert "10 of the 40 of synthetic patterns" in capsys.readouterr().out
    assert [p["steps"] for p in summary["phases"].values()] == [2, 2]
    with pytest.raises(InputError, match="config.data.subset is 10.0 there and 20.0 here"):
        run.run(tree(data__subset=20), str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", -1, "config.data.size: must be pixels a side, or 0 for the images as they are, got -1"),
        ("test_fraction", 0.0, "config.data.test_fraction: must be above 0 and below 1, got 0.0"),
        ("test_fraction", 1, "config.data.test_fraction: must be above 0 and below 1, got 1.0"),
        ("subset", -0.5, "config.data.subset: must be 0 for all, a fraction below 1, or a whole number, got -0.5"),
        ("subset", 1.5, "config.data.subset: must be 0 for all"),
        ("subset", float("nan"), "config.data.subset: must be 0 for all"),
        ("subset", float("inf"), "config.data.subset: must be 0 for all"),
    ],
)
def test_keys_are_checked(key, value, message):
    with pytest.raises(InputError, match=message):
        config.parse(tree(**{f"data__{key}": value}))
