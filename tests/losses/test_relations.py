"""Losses on relations against loops in float64, numbers of the published code, gradients, degenerate batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import relations


def normalize(v):
    return v / max(np.sqrt((v**2).sum()), 1e-12)


def slow_sp(student, teacher):
    s, t = (f.reshape(len(f), -1) for f in (student, teacher))
    total = 0.0
    for i in range(len(s)):
        rows = [normalize(np.array([sum(f[i] * f[j]) for j in range(len(f))])) for f in (s, t)]
        total += ((rows[0] - rows[1]) ** 2).sum()
    return total / len(s) ** 2


def huber(x):
    return x**2 / 2 if abs(x) < 1 else abs(x) - 0.5


def slow_rkd(student, teacher, distance_weight=25.0, angle_weight=50.0, squared=False):
    b = len(student)
    d, a = [], []
    for f in (student, teacher):
        square = np.array([[max(((x - y) ** 2).sum(), 1e-12) for y in f] for x in f])
        away = (square if squared else np.sqrt(square)) * (1 - np.eye(b))
        d.append(away / away[away > 0].mean())
        to = [[normalize(y - x) for y in f] for x in f]
        a.append(np.array([[[sum(j * k) for k in to[i]] for j in to[i]] for i in range(b)]))
    distance, angle = (np.mean([huber(x) for x in (s - t).ravel()]) for s, t in (d, a))
    return distance_weight * distance + angle_weight * angle


def slow_cc(student, teacher):
    b = len(student)
    gap = abs(student - teacher)
    return sum(sum(gap[i] * gap[i + 1]) for i in range(b - 1)) / (b - 1)


def slow_pkt(student, teacher):
    e = 1e-7
    p, q = [], []
    for f, rows in ((student, p), (teacher, q)):
        v = [x / (np.sqrt((x**2).sum()) + e) for x in f]
        for x in v:
            kernel = np.array([(sum(x * y) + 1) / 2 for y in v])
            rows.append(kernel / kernel.sum())
    b = len(student)
    pairs = np.ndindex(b, b)
    return sum(q[i][j] * np.log((q[i][j] + e) / (p[i][j] + e)) for i, j in pairs) / b**2


SLOW = {"sp": slow_sp, "rkd": slow_rkd, "cc": slow_cc, "pkt": slow_pkt}
OURS = {name: jax.jit(getattr(relations, name)) for name in ("sp", "cc", "pkt")}
OURS["rkd"] = jax.jit(relations.rkd, static_argnames=("squared", "distance_weight", "angle_weight"))
CASES = [
    ("sp", (5, 4), (5, 7), {}), ("sp", (2, 3, 5, 4), (2, 2, 2, 3), {}), ("sp", (1, 3), (1, 2), {}),
    ("rkd", (5, 4), (5, 7), {}), ("rkd", (2, 1), (2, 3), {}), ("rkd", (5, 4), (5, 2), {"squared": True}),
    ("rkd", (4, 3), (4, 3), {"distance_weight": 1.5, "angle_weight": 0.5}),
    ("rkd", (6, 3), (6, 3), {"angle_weight": 0}), ("rkd", (6, 3), (6, 3), {"distance_weight": 0}),
    ("cc", (5, 4), (5, 4), {}), ("cc", (2, 3), (2, 3), {}),
    ("pkt", (5, 4), (5, 7), {}), ("pkt", (1, 3), (1, 2), {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "student", "teacher", "kwargs"), CASES)
def test_float64_reference(rng, x64, name, student, teacher, kwargs):
    student, teacher = rng.normal(0.5, 2, student), rng.normal(0, 1, teacher)
    ours = OURS[name](student=jnp.asarray(student), teacher=jnp.asarray(teacher), **kwargs)
    assert ours.shape == () and ours.dtype == jnp.float64
    np.testing.assert_allclose(ours, SLOW[name](student, teacher, **kwargs), rtol=1e-9, atol=1e-12)


def wave(*shape):
    return jnp.sin(jnp.arange(float(np.prod(shape)))).reshape(shape)


def test_numbers_of_the_published_code(x64):
    """mdistiller's similarity_loss, rkd_loss and pkt_loss, RepDistiller's Correlation, run in float64."""
    a, b = wave(5, 4) + 0.5, wave(5, 6) ** 2
    for name, student, teacher, kwargs, value in (
        ("sp", wave(5, 3, 7, 4), wave(5, 4, 4, 6) ** 2, {}, 0.30975615854247535),
        ("rkd", a, b, {}, 15.20791898571395),
        ("rkd", a, b, {"squared": True}, 22.186064651076137),
        ("rkd", a, b, {"angle_weight": 0}, 4.508140654341897),
        ("rkd", a, b, {"distance_weight": 0}, 10.699778331372054),
        ("pkt", a, b, {}, 0.018668767440045718),
        ("cc", a, wave(5, 4) ** 2, {}, 2.0825914320239622),
    ):
        np.testing.assert_allclose(OURS[name](student=student, teacher=teacher, **kwargs), value, rtol=1e-12)


@pytest.mark.parametrize("name", SLOW)
def test_float32_and_half_precision(rng, name):
    student, teacher = jnp.bfloat16(abs(rng.normal(0, 3, (2, 12, 9))))  # pooled features are not negative
    wide = [f.astype(jnp.float32) for f in (student, teacher)]
    ours = OURS[name](student=student, teacher=teacher)
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, OURS[name](student=wide[0], teacher=wide[1]))
    np.testing.assert_allclose(ours, SLOW[name](*map(np.float64, wide)), rtol=1e-5)


def test_what_they_do_not_see(rng, x64):
    """SP: scale. PKT: the scale of each example. RKD: scale, shift and rotation. None: the order of examples."""
    student, teacher = jnp.asarray(rng.normal(0, 1, (2, 6, 4)))
    turn = jnp.linalg.qr(jnp.asarray(rng.normal(0, 1, (4, 4))))[0]
    order = rng.permutation(6)
    sizes = jnp.asarray(rng.uniform(1, 2, (6, 1)))
    for name, changed in (("sp", 3 * student), ("pkt", sizes * student), ("rkd", 3 * student @ turn + 7)):
        value = OURS[name](student=student, teacher=teacher)
        np.testing.assert_allclose(OURS[name](student=changed, teacher=teacher), value, rtol=1e-6)
        np.testing.assert_allclose(OURS[name](student=student[order], teacher=teacher[order]), value, rtol=1e-9)
        np.testing.assert_allclose(OURS[name](student=changed, teacher=student), 0, atol=1e-8)


@pytest.mark.parametrize("name", SLOW)
def test_gradients_against_finite_differences(rng, x64, name):
    """Of both arguments, and the gradients have gradients."""
    both, along = jnp.asarray(rng.normal(0, 1, (2, 2, 4, 3)))
    loss = jax.jit(lambda f: getattr(relations, name)(student=f[0], teacher=f[1]))
    grad = jax.jit(jax.grad(loss))
    exact = grad(both)
    assert (jnp.abs(exact).max(axis=(1, 2)) > 1e-3).all()
    for i in np.ndindex(both.shape):
        slope = (loss(both.at[i].add(1e-6)) - loss(both.at[i].add(-1e-6))) / 2e-6
        np.testing.assert_allclose(exact[i], slope, rtol=1e-4, atol=1e-7)
    second = jax.jit(jax.grad(lambda f: jnp.vdot(grad(f), along)))(both)
    np.testing.assert_allclose(
        second, (grad(both + 1e-6 * along) - grad(both - 1e-6 * along)) / 2e-6, rtol=1e-4, atol=1e-6
    )


def degenerate():
    f = wave(4, 3) + 0.2
    return {
        "two equal": f.at[1].set(f[0]),
        "all equal": jnp.broadcast_to(f[0], f.shape),
        "one zero": f.at[2].set(0),
        "all zero": jnp.zeros_like(f),
        "opposite": f.at[1].set(-f[0]),
        "tiny": 1e-9 * f,
        "huge": 1e8 * f,
    }


@pytest.mark.parametrize("name", SLOW)
def test_degenerate_batches(name):
    """Finite values and gradients, the published value; gradients that a step survives where examples are equal."""
    both = jax.jit(jax.value_and_grad(lambda s, t: getattr(relations, name)(student=s, teacher=t), (0, 1)))
    whole, given = jnp.cos(wave(4, 3)), degenerate()
    for case, f in given.items():
        for student, teacher in ((f, whole), (whole, f), (f, f), (f, given["all equal"])):
            value, grads = both(student, teacher)
            slow = SLOW[name](*map(np.float64, (student, teacher)))
            rough = 0.05 if case == "opposite" else 1e-4  # PKT's log of a kernel that is 0 but for rounding and 1e-7
            np.testing.assert_allclose(value, slow, rtol=rough, atol=1e-6, err_msg=case)
            assert all(np.isfinite(g).all() for g in grads), case
            if case in ("two equal", "one zero", "all zero"):
                assert max(float(jnp.abs(g).max()) for g in grads) < 1e3, case


@pytest.mark.parametrize("name", SLOW)
def test_a_nan_is_not_hidden(name):
    f = wave(4, 3)
    assert np.isnan(OURS[name](student=f.at[1, 1].set(jnp.nan), teacher=f))


def test_refusals():
    f = jnp.ones((4, 3))
    for name in SLOW:
        with pytest.raises(ValueError, match=f"{name}: as many examples of one as of the other wanted, got 4, 1"):
            getattr(relations, name)(student=f, teacher=f[:1])
        with pytest.raises(TypeError):
            getattr(relations, name)(f, f)
    for name in ("rkd", "cc"):
        with pytest.raises(ValueError, match=f"{name}: needs at least 2 examples in a batch, got 1"):
            getattr(relations, name)(student=f[:1], teacher=f[:1])
    with pytest.raises(ValueError, match=r"cc: embeddings of one shape wanted, got \(4, 3\) and \(4, 2\)"):
        relations.cc(student=f, teacher=f[:, :2])
