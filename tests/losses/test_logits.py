"""Losses on logits against slow references in float64, their gradients, invariances and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_jax import InputError, losses
from kd_jax.losses import logits as all_losses
from tests.losses import common_input


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def slow_ce(student, labels):
    return np.array([-np.log(softmax(s)[y]) for s, y in zip(student, labels, strict=True)])


def slow_kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def slow_kd(student, teacher, t=4.0):
    return np.array([t**2 * slow_kl(softmax(b / t), softmax(a / t)) for a, b in zip(student, teacher, strict=True)])


def slow_dkd(student, teacher, labels, alpha=1.0, beta=8.0, t=4.0):
    values = []
    for a, b, y in zip(student, teacher, labels, strict=True):
        q, p = softmax(a / t), softmax(b / t)
        tckd = slow_kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        nckd = slow_kl(np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y]))
        values.append(t**2 * (alpha * tckd + beta * nckd))
    return np.array(values)


def slow_pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return sum(x * y) / (np.sqrt(sum(x * x)) * np.sqrt(sum(y * y)) + 1e-8)


def slow_dist(student, teacher, beta=1.0, gamma=1.0, t=1.0):
    p, q = (np.array([softmax(row / t) for row in z]) for z in (student, teacher))
    inter = 1 - np.mean([slow_pearson(p[i], q[i]) for i in range(len(p))])
    intra = 1 - np.mean([slow_pearson(p[:, k], q[:, k]) for k in range(p.shape[1])])
    return t**2 * (beta * inter + gamma * intra)


def slow_standardize(logits):
    return np.array([(z - z.mean()) / (np.sqrt(((z - z.mean()) ** 2).sum() / (len(z) - 1)) + 1e-7) for z in logits])


def case(rng, b=6, k=7, scale=3.0):
    student, teacher = rng.normal(0, scale, (2, b, k))
    return student, teacher, rng.integers(0, k, b)


@pytest.mark.parametrize("k", [3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 9.5])
def test_float64_reference(rng, x64, k, temperature):
    student, teacher, labels = case(rng, k=k)
    pair = {"student": jnp.asarray(student), "teacher": jnp.asarray(teacher)}
    y = jnp.asarray(labels)
    np.testing.assert_allclose(
        losses.cross_entropy(student=pair["student"], labels=y), slow_ce(student, labels), rtol=1e-10
    )
    np.testing.assert_allclose(
        losses.kd(**pair, temperature=temperature), slow_kd(student, teacher, temperature), rtol=1e-9
    )
    ours = losses.dkd(**pair, labels=y, alpha=0.7, beta=2.5, temperature=temperature)
    np.testing.assert_allclose(ours, slow_dkd(student, teacher, labels, 0.7, 2.5, temperature), rtol=1e-9)


def test_float32_agrees_with_float64(rng):
    student, teacher, labels = case(rng, b=32, k=100)
    pair = {"student": jnp.float32(student), "teacher": jnp.float32(teacher)}
    np.testing.assert_allclose(losses.kd(**pair), slow_kd(student, teacher), rtol=1e-4)
    np.testing.assert_allclose(losses.dkd(**pair, labels=labels), slow_dkd(student, teacher, labels), rtol=1e-4)


def test_defaults_are_the_published_ones(rng, x64):
    student, teacher, labels = (jnp.asarray(v) for v in case(rng))
    np.testing.assert_array_equal(
        losses.dkd(student=student, teacher=teacher, labels=labels),
        losses.dkd(student=student, teacher=teacher, labels=labels, alpha=1.0, beta=8.0, temperature=4.0),
    )
    np.testing.assert_array_equal(
        losses.kd(student=student, teacher=teacher), losses.kd(student=student, teacher=teacher, temperature=4.0)
    )


@pytest.mark.parametrize("name", ["cross_entropy", "kd", "dkd"])
def test_gradients_against_finite_differences(rng, x64, name):
    student, teacher, labels = (jnp.asarray(v) for v in case(rng, b=3, k=4))

    def loss(s, t):
        args = {"student": s, "teacher": t, "labels": labels}
        wanted = {"cross_entropy": ("student", "labels"), "kd": ("student", "teacher"), "dkd": tuple(args)}[name]
        return getattr(losses, name)(**{k: args[k] for k in wanted}).sum()

    for which in (0, 1):
        grad = jax.grad(loss, which)(student, teacher)
        for i in np.ndindex(student.shape):
            up, down = [[student, teacher], [student, teacher]]
            up[which] = up[which].at[i].add(1e-6)
            down[which] = down[which].at[i].add(-1e-6)
            np.testing.assert_allclose(grad[i], (loss(*up) - loss(*down)) / 2e-6, rtol=1e-4, atol=1e-7)


def test_the_teacher_is_not_detached(rng):
    """SKD's simplifier lives behind the teacher argument: a detached one would never learn."""
    student, teacher, labels = (jnp.asarray(v) for v in case(rng))
    for loss in (
        lambda t: losses.kd(student=student, teacher=t).sum(),
        lambda t: losses.dkd(student=student, teacher=t, labels=labels).sum(),
    ):
        assert float(jnp.abs(jax.grad(loss)(teacher)).max()) > 1e-3


def test_kd_direction_and_reduction():
    """KL(teacher || student), summed over classes, not averaged; the gradient is T (p_s - p_t)."""
    student, teacher = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([[0.0, 3.0, 1.0]])
    grad = jax.grad(lambda s: losses.kd(student=s, teacher=teacher, temperature=4.0).sum())(student)
    np.testing.assert_allclose(grad, 4 * (jax.nn.softmax(student / 4) - jax.nn.softmax(teacher / 4)), rtol=1e-5)
    assert not np.allclose(losses.kd(student=student, teacher=teacher), losses.kd(student=teacher, teacher=student))


def test_dkd_with_the_right_weights_is_kd(rng, x64):
    student, teacher, labels = (jnp.asarray(v) for v in case(rng, b=1))
    p = jax.nn.softmax(teacher / 4)[0, labels[0]]
    ours = losses.dkd(student=student, teacher=teacher, labels=labels, alpha=1.0, beta=1 - p)
    np.testing.assert_allclose(ours, losses.kd(student=student, teacher=teacher), rtol=1e-10)


@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50), t=st.floats(0.5, 20))
def test_invariances(seed, shift, t):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        s, z, y = (jnp.asarray(v) for v in case(rng))
        order = rng.permutation(s.shape[1])
        moved = jnp.asarray(np.argsort(order))[y]

        def both(s, z, y):
            pair = {"student": s, "teacher": z, "temperature": t}
            return jnp.stack([losses.kd(**pair), losses.dkd(**pair, labels=y)])

        value = both(s, z, y)
        assert (value >= -1e-12).all()
        np.testing.assert_allclose(both(s + shift, z - 2 * shift, y), value, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(both(s[:, order], z[:, order], moved), value, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(both(z, z, y), 0, atol=1e-12)


EXTREME = [
    [1e4, 0, 0, 0], [0, 0, 0, 0], [-1e4, 1e4, 3, 0], [1e4, 1e4, 1e4, 1e4],
    [0, -np.inf, -np.inf, -np.inf], [3e38, 0, 0, -3e38], [88, -88, 0, 1],
]  # fmt: skip


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("label", [0, 1])
def test_extreme_logits_are_finite(dtype, label):
    labels = jnp.array([label])

    def loss(s, t):
        pair = {"student": s, "teacher": t}
        return (
            losses.kd(**pair) + losses.dkd(**pair, labels=labels) + losses.cross_entropy(student=s, labels=labels)
        ).sum()

    both = jax.jit(jax.value_and_grad(loss, (0, 1)))
    for teacher in EXTREME:
        for student in EXTREME:
            value, grads = both(jnp.array([student], dtype), jnp.array([teacher], dtype))
            assert np.isfinite(value), (student, teacher)
            assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in grads), (student, teacher)


def test_a_nan_is_not_hidden():
    bad = jnp.array([[jnp.nan, 0.0, 0.0]])
    good = jnp.zeros((1, 3))
    assert np.isnan(losses.kd(student=bad, teacher=good)).all()
    assert np.isnan(losses.cross_entropy(student=bad, labels=jnp.array([0]))).all()


def test_refusals():
    two, three = jnp.zeros((4, 2)), jnp.zeros((4, 3))
    labels = jnp.zeros(4, jnp.int32)
    with pytest.raises(ValueError, match="dkd: needs at least 3 classes, got 2"):
        losses.dkd(student=two, teacher=two, labels=labels)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="kd: temperature must be"):
            losses.kd(student=three, teacher=three, temperature=temperature)
        with pytest.raises(ValueError, match="dkd: temperature must be"):
            losses.dkd(student=three, teacher=three, labels=labels, temperature=temperature)
    with pytest.raises(TypeError):
        losses.kd(three, three)  # keywords only: the order of arguments is the classic bug


dist, standardize = jax.jit(all_losses.dist), jax.jit(all_losses.standardize)


@pytest.mark.parametrize(("b", "k"), [(6, 7), (2, 2), (3, 100)])
@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0), (0.0, 1.0, 1.0)])
def test_dist_float64_reference(rng, x64, b, k, beta, gamma, temperature):
    student, teacher, _ = case(rng, b, k)
    ours = dist(student=student, teacher=teacher, beta=beta, gamma=gamma, temperature=temperature)
    assert ours.shape == ()
    # 1 minus a correlation: near 0 its digits are those of 1
    np.testing.assert_allclose(ours, slow_dist(student, teacher, beta, gamma, temperature), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("k", [2, 7, 100])
def test_standardize_float64_reference(rng, x64, k):
    z = rng.normal(5, 3, (6, k))
    ours = standardize(jnp.asarray(z))
    np.testing.assert_allclose(ours, slow_standardize(z), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.std(-1, ddof=1), 1, rtol=1e-6)
    np.testing.assert_allclose(standardize(3 * z - 100), ours, rtol=1e-6, atol=1e-6)


def wave(*shape):
    return jnp.sin(jnp.arange(float(np.prod(shape)))).reshape(shape)


def test_dist_and_standardize_have_the_published_numbers(x64):
    """DIST's class with temperature, and LSKD's kd_loss with standardisation at T = 2, run in float64."""
    z, y = 3 * wave(5, 7), 2 * wave(5, 7) ** 2
    np.testing.assert_allclose(dist(student=z, teacher=y), 1.0857804905407695, rtol=1e-12)
    ours = dist(student=z, teacher=y, beta=2.0, gamma=3.0, temperature=4.0)
    np.testing.assert_allclose(ours, 62.47526073259384, rtol=1e-12)
    ours = losses.kd(student=standardize(z), teacher=standardize(y), temperature=2.0)
    np.testing.assert_allclose(ours.mean(), 0.7948192951273236, rtol=1e-12)


def test_dist_and_standardize_in_float32_and_half_precision(rng):
    student, teacher = jnp.bfloat16(rng.normal(0, 3, (2, 32, 100)))
    wide = [np.float32(z) for z in (student, teacher)]
    ours = dist(student=student, teacher=teacher, temperature=4.0)
    assert ours.dtype == standardize(student).dtype == jnp.float32
    np.testing.assert_array_equal(ours, dist(student=wide[0], teacher=wide[1], temperature=4.0))
    np.testing.assert_allclose(ours, slow_dist(*map(np.float64, wide), t=4.0), rtol=1e-5)
    np.testing.assert_allclose(standardize(student), slow_standardize(np.float64(wide[0])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dist", "standardize"])
def test_their_gradients_against_finite_differences(rng, x64, name):
    both, weights = jnp.asarray(rng.normal(0, 1, (2, 2, 4, 3)))

    def loss(z):
        if name == "dist":
            return all_losses.dist(student=z[0], teacher=z[1], beta=2.0, temperature=1.5)
        return jnp.vdot(weights, all_losses.standardize(z.reshape(8, 3)).reshape(2, 4, 3))

    exact, loss = jax.jit(jax.grad(loss))(both), jax.jit(loss)
    assert (jnp.abs(exact).max(axis=(1, 2)) > 1e-3).all()
    for i in np.ndindex(both.shape):
        slope = (loss(both.at[i].add(1e-6)) - loss(both.at[i].add(-1e-6))) / 2e-6
        np.testing.assert_allclose(exact[i], slope, rtol=1e-5, atol=1e-8)


def test_dist_sees_correlation_only(rng, x64):
    """Equal to the teacher it is 0; probabilities that are an affine function of the teacher's correlate too."""
    student, teacher, _ = (jnp.asarray(v) for v in case(rng, scale=1.0))
    np.testing.assert_allclose(dist(student=teacher + 3, teacher=teacher), 0, atol=1e-5)
    near = jnp.log(0.5 * jax.nn.softmax(teacher) + 0.5 / teacher.shape[1])
    np.testing.assert_allclose(dist(student=near, teacher=teacher), 0, atol=1e-5)
    assert dist(student=student, teacher=teacher) > 0.1
    order = jnp.array([3, 0, 5, 1, 2, 4])
    value = dist(student=student[order], teacher=teacher[order])
    np.testing.assert_allclose(value, dist(student=student, teacher=teacher), rtol=1e-10)


@pytest.mark.parametrize("b", [1, 3])
def test_dist_and_standardize_are_finite(b):
    def both(s, t):
        return all_losses.dist(student=s, teacher=t), standardize(s).sum() + (standardize(s) * standardize(t)).sum()

    check = jax.jit(lambda s, t: (both(s, t), jax.grad(lambda s, t: sum(both(s, t)), (0, 1))(s, t)))
    for teacher in EXTREME:
        for student in EXTREME:
            results = check(*(jnp.broadcast_to(jnp.float32(z), (b, 4)) for z in (student, teacher)))
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(results)), (student, teacher)
    np.testing.assert_array_equal(standardize(jnp.zeros((2, 3))), 0)
    np.testing.assert_allclose(
        standardize(jnp.array([[0.0, -np.inf, -np.inf]])), standardize(jnp.eye(3)[:1]), rtol=1e-6
    )
    assert np.isnan(dist(student=jnp.full((2, 3), jnp.nan), teacher=jnp.eye(3)[:2]))
    assert np.isnan(standardize(jnp.array([[jnp.nan, 0.0, 1.0]]))).all()


def test_refusals_of_dist_and_standardize():
    z = jnp.zeros((2, 3))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="dist: temperature must be"):
            all_losses.dist(student=z, teacher=z, temperature=temperature)
    with pytest.raises(ValueError, match="standardize: needs at least 2 classes, got 1"):
        all_losses.standardize(z[:, :1])
    with pytest.raises(TypeError):
        all_losses.dist(z, z)


def test_soft_and_smoothed_labels(x64):
    """timm's targets and losses: sharing labels out and smoothing commute."""
    mixed = np.array([
        [0.65, 0.02, 0.02, 0.29, 0.02], [0.02, 0.92, 0.02, 0.02, 0.02], [0.29, 0.02, 0.02, 0.65, 0.02]
    ])  # fmt: skip
    hard = 0.7 * np.eye(5)[common_input.LABELS] + 0.3 * np.eye(5)[common_input.LABELS[::-1]]
    ce = jax.jit(losses.cross_entropy, static_argnames="smoothing")
    student = common_input.STUDENT
    np.testing.assert_allclose(ce(student=student, labels=mixed).mean(), 1.4663047103, atol=1e-9)
    np.testing.assert_allclose(
        ce(student=student, labels=hard, smoothing=0.1), ce(student=student, labels=mixed), rtol=1e-12
    )
    smoothed = ce(student=student, labels=common_input.LABELS, smoothing=0.1)
    np.testing.assert_allclose(smoothed.mean(), 1.7813047103, atol=1e-9)
    one_hot = np.eye(5)[common_input.LABELS]
    np.testing.assert_allclose(ce(student=student, labels=one_hot, smoothing=0.1), smoothed, rtol=1e-12)
    sure = np.array([[np.inf, 0.0, 0.0, 0.0, 0.0]])
    assert np.isfinite(losses.cross_entropy(student=sure, labels=np.array([[1.0, 0, 0, 0, 0]])))
    with pytest.raises(InputError, match="cross_entropy: smoothing must be at least 0 and below 1, got 1"):
        losses.cross_entropy(student=student, labels=common_input.LABELS, smoothing=1.0)
