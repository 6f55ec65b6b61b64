"""WKD-L against the published function's values and a slow one; marginals, symmetries, degenerate inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses
from tests.losses.common_input import EXTREME, LABELLED, LABELS, PAIR, STUDENT, TEACHER

CLASSES = np.arange(5)
COSTS = 1 - np.exp(-np.abs(CLASSES[:, None] - CLASSES) / 4)
wkd_l = jax.jit(losses.wkd_l, static_argnames=("gamma", "temperature", "iterations"))
transport = jax.jit(losses.transport, static_argnames=("temperature", "iterations"))


def softmax(z):
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def slow(student, teacher, labels, costs, temperature, iterations=10):
    """Example by example, on the classes beside the label alone. Costs (B,) and plans."""
    values, plans = [], []
    for s, t, label in zip(student, teacher, labels, strict=True):
        others = np.arange(len(s)) != label
        a, b = softmax(s[others] / temperature), softmax(t[others] / temperature)
        c = np.maximum(costs[others][:, others], 0) + 1e-8
        kernel, u = np.exp(-c / 0.05), np.full(others.sum(), 1 / others.sum())
        for _ in range(iterations):
            v = b / (kernel.T @ u + 1e-8)
            u = a / (kernel @ v + 1e-8)
        plans.append(u[:, None] * kernel * v)
        values.append((plans[-1] * c).sum())
    return np.array(values), plans


def test_values_are_the_published_codes(x64):
    given = {**LABELLED, "costs": COSTS}
    two, four = transport(**given, temperature=2.0), transport(**given, temperature=4.0)
    np.testing.assert_allclose(two, [0.04897663, 0.12875426, 0.16641083], atol=6e-9)
    np.testing.assert_allclose(four, [0.02272638, 0.04809390, 0.09552265], atol=6e-9)
    np.testing.assert_allclose(wkd_l(**given, gamma=30.0, temperature=2.0).mean(), 3.85172448, atol=6e-9)
    np.testing.assert_allclose(wkd_l(**given, gamma=200.0, temperature=4.0).mean(), 11.49983604, atol=6e-9)
    same = transport(**{**given, "student": TEACHER}, temperature=4.0)
    np.testing.assert_allclose(same, [0.00399572, 0.00238933, 0.00329782], atol=6e-9)
    longer = transport(**given, temperature=4.0, iterations=200)
    np.testing.assert_allclose(longer, [0.03079249, 0.06413455, 0.09534735], atol=6e-9)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_against_loops(rng, x64, classes):
    student, teacher = rng.normal(0, 3, size=(2, 6, classes))
    labels, costs = rng.integers(classes, size=6), rng.uniform(0, 1, (classes, classes))
    given = {"student": student, "teacher": teacher, "labels": labels, "costs": costs}
    np.testing.assert_allclose(transport(**given, temperature=3.0), slow(**given, temperature=3.0)[0], rtol=1e-10)
    one = {name: x if name == "costs" else x[:1] for name, x in given.items()}
    np.testing.assert_allclose(transport(**one, temperature=3.0), transport(**given, temperature=3.0)[:1], rtol=1e-12)


def test_the_plan_carries_all_of_the_student(x64):
    """What the closed formula of the scalings says of the slow plans, by which ours are checked."""
    _, plans = slow(**LABELLED, costs=COSTS, temperature=4.0)
    for plan, s, t, label in zip(plans, STUDENT, TEACHER, LABELS, strict=True):
        np.testing.assert_allclose(plan.sum(1), softmax(np.delete(s, label) / 4), rtol=1e-6)
        assert 1e-3 < np.abs(plan.sum(0) - softmax(np.delete(t, label) / 4)).max() < 4e-2


def test_two_classes_leave_one_and_no_cost_costs_nothing(x64):
    two = {"student": STUDENT[:, :2], "teacher": TEACHER[:, :2], "labels": LABELS % 2, "costs": COSTS[:2, :2]}
    np.testing.assert_allclose(transport(**two), 1e-8, rtol=1e-6)
    np.testing.assert_allclose(transport(**LABELLED, costs=0 * COSTS), 1e-8, rtol=1e-6)


def test_permuted_classes_and_shifted_logits_change_nothing(rng, x64):
    order = rng.permutation(5)
    permuted = {name: z[:, order] for name, z in PAIR.items()}
    permuted |= {"labels": np.argsort(order)[LABELS], "costs": COSTS[order][:, order]}
    plain = wkd_l(**LABELLED, costs=COSTS, temperature=2.0)
    np.testing.assert_allclose(wkd_l(**permuted, temperature=2.0), plain, rtol=1e-10)
    shifted = {"student": STUDENT + 3, "teacher": TEACHER - np.array([[1.0], [2.0], [3.0]])}
    np.testing.assert_allclose(wkd_l(**LABELLED | shifted, costs=COSTS, temperature=2.0), plain, rtol=1e-10)


def test_gradients_are_slopes(x64):
    """In both sides' logits, through all iterations."""

    @jax.jit
    def total(pair):
        return losses.wkd_l(student=pair[0], teacher=pair[1], labels=LABELS, costs=COSTS, temperature=2.0).sum()

    pair = jnp.stack([STUDENT, TEACHER])
    grad = jax.jit(jax.grad(total))(pair)
    assert (jnp.abs(grad).max(axis=(1, 2)) > 1e-2).all()
    for i in np.ndindex(pair.shape):
        slope = (total(pair.at[i].add(1e-6)) - total(pair.at[i].add(-1e-6))) / 2e-6
        np.testing.assert_allclose(grad[i], slope, rtol=1e-5, atol=1e-8)


def test_the_raw_teacher_says_how_likely_the_label_is(x64):
    refined = {**LABELLED, "teacher": 0 * TEACHER, "costs": COSTS}
    raw = wkd_l(**refined, raw_teacher=TEACHER, gamma=0.0)
    np.testing.assert_allclose(raw, losses.nkd(**LABELLED, gamma=0.0), rtol=1e-12)
    difference = wkd_l(**refined, raw_teacher=TEACHER, gamma=7.0) - raw
    np.testing.assert_allclose(difference, 7 * transport(**refined), rtol=1e-10)


@pytest.mark.parametrize("costs", [COSTS, 1 - np.eye(5)])
def test_extreme_logits_are_finite(costs):
    for pair in ((EXTREME, TEACHER), (STUDENT, EXTREME), (EXTREME, EXTREME[::-1]), (0 * STUDENT, 0 * TEACHER)):
        given = {"labels": LABELS, "costs": jnp.float32(costs)}
        total = lambda s, t, given=given: wkd_l(student=s, teacher=t, **given, gamma=30.0).sum()  # noqa: E731
        value, slopes = jax.value_and_grad(total, argnums=(0, 1))(*map(jnp.float32, pair))
        assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in slopes)


def test_costs_of_classes(x64):
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    distances = losses.cosine_distances(rows)
    np.testing.assert_allclose(distances[0], [0, 0, 1, 2, 1], atol=1e-12)
    np.testing.assert_array_equal(distances, distances.T)
    assert not np.diagonal(distances).any()
    np.testing.assert_allclose(losses.class_costs(distances, 2.0), 1 - np.exp(-2 * distances), rtol=1e-12)


def test_class_cka_against_loops(rng, x64):
    features = rng.normal(2, 1, (4, 9, 3))
    features[2] = 5 * features[1] @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 1  # rotated, scaled and moved
    features[3] = 7.0
    wanted = np.zeros((4, 4))
    for i, j in np.ndindex(4, 4):
        x, y = (f - f.mean(0) for f in (features[i], features[j]))
        sizes = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
        wanted[i, j] = np.linalg.norm(y.T @ x) ** 2 / sizes if sizes > 1e-20 else i == j
    cka = losses.class_cka(features)
    np.testing.assert_allclose(cka, wanted, atol=1e-12)
    np.testing.assert_allclose(cka[1, 2], 1, rtol=1e-10)
    assert 0 < cka[0, 1] < 0.9


def test_half_precision_is_computed_in_float32():
    half = {name: jnp.bfloat16(z) for name, z in PAIR.items()}
    whole = {name: jnp.float32(z) for name, z in half.items()}
    given = {"labels": LABELS, "costs": jnp.float32(COSTS), "temperature": 2.0}
    np.testing.assert_array_equal(wkd_l(**half, **given), wkd_l(**whole, **given))


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="wkd_l: temperature must be a finite number above 0, got 0"):
        losses.transport(**LABELLED, costs=COSTS, temperature=0.0)
    with pytest.raises(InputError, match="wkd_l: iterations must be at least 1, got 0"):
        losses.wkd_l(**LABELLED, costs=COSTS, iterations=0)
