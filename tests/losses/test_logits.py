"""Cross-entropy, KD and DKD against slow references in float64, their gradients, invariances and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_jax import InputError, losses
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

    grads, loss = jax.jit(jax.grad(loss, (0, 1)))(student, teacher), jax.jit(loss)
    for which, grad in enumerate(grads):
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
        assert float(jnp.abs(jax.jit(jax.grad(loss))(teacher)).max()) > 1e-3


def test_kd_direction_and_reduction():
    """KL(teacher || student), summed over classes, not averaged; the gradient is T (p_s - p_t)."""
    student, teacher = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([[0.0, 3.0, 1.0]])
    grad = jax.jit(jax.grad(lambda s: losses.kd(student=s, teacher=teacher, temperature=4.0).sum()))(student)
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
