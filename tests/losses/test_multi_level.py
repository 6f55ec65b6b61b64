"""MLLD's loss against loops in float64, numbers of the published code, gradients, degenerate batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import standardize
from kd_jax.losses.multi_level import mlld

SEATS = ("student", "teacher", "student_strong", "teacher_strong")


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def slow_kd(student, teacher, t):
    p, q = softmax(student / t), softmax(teacher / t)
    return t**2 * np.mean([sum(b * np.log(b / a)) for a, b in zip(p, q, strict=True)])


def slow_gap(p, q):
    """The rows of p compared with one another, against those of q."""
    n = len(p)
    return sum((sum(q[i] * q[j]) - sum(p[i] * p[j])) ** 2 for i in range(n) for j in range(n)) / n


def slow_share(values):
    half = np.percentile(values, 50)
    return np.mean([v <= half for v in values])


def slow_mlld(
    student, teacher, student_strong, teacher_strong, plain_student=None, plain_teacher=None,
    temperature=4.0, temperatures=(3.0, 5.0), weak_temperatures=(2.0, 6.0),
):  # fmt: skip
    ps = student if plain_student is None else plain_student
    pt = teacher if plain_teacher is None else plain_teacher
    m, c = slow_share([max(row) for row in softmax(pt)]), slow_share([sum(column) for column in softmax(pt).T])
    total = 0.0
    for t in (temperature, *temperatures, *weak_temperatures):
        p, q = softmax(ps / t), softmax(pt / t)
        total += m * slow_kd(student, teacher, t) + c * slow_gap(p.T, q.T) + m * slow_gap(p, q)
    for t in (temperature, *temperatures):
        total += slow_kd(student_strong, teacher_strong, t)
    return total + sum(slow_kd(student, teacher, t) for t in weak_temperatures)


def case(seed, b, k):
    """Logits of the four seats, and directions for the students' two."""
    *logits, weak, strong = np.random.RandomState(seed).normal(0, 2, (6, b, k))  # its streams are frozen
    return dict(zip(SEATS, map(jnp.asarray, logits), strict=True)), (jnp.asarray(weak), jnp.asarray(strong))


@pytest.mark.parametrize("kwargs", [
    {},
    {"temperature": 2.5, "temperatures": (1.0,), "weak_temperatures": ()},
    {"temperature": 1.5, "temperatures": (), "weak_temperatures": (7.0, 2.0, 3.0)},
], ids=["published", "on both views", "on the weak view"])  # fmt: skip
@pytest.mark.parametrize(("b", "k"), [(6, 10), (5, 7), (2, 3)])
def test_loops(x64, b, k, kwargs):
    logits = case(3, b, k)[0]
    value = jax.jit(lambda z: mlld(**z, **kwargs))(logits)
    assert value.shape == () and value.dtype == jnp.float64
    np.testing.assert_allclose(value, slow_mlld(**{s: np.asarray(z) for s, z in logits.items()}, **kwargs), rtol=1e-10)


def test_plain_logits_make_the_masks_and_the_gram_terms(x64):
    logits, plain = case(4, 6, 8)[0], dict(zip(("plain_student", "plain_teacher"), case(9, 6, 8)[1], strict=True))
    value = jax.jit(lambda z: mlld(**z))(logits | plain)
    np.testing.assert_allclose(value, slow_mlld(**{s: np.asarray(z) for s, z in (logits | plain).items()}), rtol=1e-10)
    np.testing.assert_allclose(
        mlld(**logits, plain_student=logits["student"], plain_teacher=logits["teacher"]), mlld(**logits), rtol=1e-12
    )
    assert abs(value - mlld(**logits)) > 1e-3


@pytest.mark.parametrize(("b", "k", "standard", "temperature", "value", "slope"), [
    (6, 10, False, 4.0, 22.18163523625915, 0.3180859307304975),
    (5, 7, False, 4.0, 27.25414139744892, 2.707566211835771),
    (6, 10, True, 2.0, 6.285220855065006, 0.15148515305007637),
    (5, 7, True, 3.0, 7.902031124775544, -0.015138830189479627),
])  # fmt: skip
def test_numbers_of_the_published_code(x64, b, k, standard, temperature, value, slope):
    """The MLKD class of the LSKD authors' repository in float64: weights aside, all of its total that is not
    cross-entropy; without standardisation it is the class of MLLD's authors."""
    logits, along = case(b, b, k)

    def loss(students):
        z = logits | dict(zip(("student", "student_strong"), students, strict=True))
        logits_of = {seat: standardize(v) for seat, v in z.items()} if standard else z
        plain = {"plain_student": z["student"], "plain_teacher": z["teacher"]}
        return mlld(**logits_of, **plain, temperature=temperature)

    students = (logits["student"], logits["student_strong"])
    ours, derivative = jax.jit(lambda s, d: jax.jvp(loss, (s,), (d,)))(students, along)
    np.testing.assert_allclose(ours, value, rtol=1e-12)
    np.testing.assert_allclose(derivative, slope, rtol=1e-9)


def test_masks_are_shares_with_ties():
    """All equally confident, all classes alike: both shares are 1; m is 1/2 of a batch without ties."""
    logits = {seat: jnp.float32(z) for seat, z in case(2, 4, 4)[0].items()}
    tied = jnp.zeros((4, 4))
    values = mlld(**logits | {"teacher": tied}, weak_temperatures=())
    wide = {seat: np.float64(z) for seat, z in (logits | {"teacher": tied}).items()}
    np.testing.assert_allclose(values, slow_mlld(**wide, weak_temperatures=()), rtol=1e-5)
    assert slow_share([0.3, 0.1, 0.2, 0.4]) == 0.5 and slow_share([0.3, 0.1, 0.2]) == 2 / 3


def test_gradients_are_slopes(x64):
    """In all six arguments: nothing is detached. The steps are too small to move an example over the median."""
    logits = case(1, 4, 3)[0]
    logits |= {"plain_student": case(5, 4, 3)[1][0], "plain_teacher": case(5, 4, 3)[1][1]}
    loss = jax.jit(lambda z: mlld(**z))
    grads = jax.jit(jax.grad(loss))(logits)
    for seat, z in logits.items():
        assert jnp.abs(grads[seat]).max() > 1e-4, seat
        for i in np.ndindex(z.shape):
            ends = [loss(logits | {seat: z.at[i].add(step)}) for step in (1e-6, -1e-6)]
            np.testing.assert_allclose(grads[seat][i], (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-7)


def test_temperature_may_be_traced_and_has_a_gradient(x64):
    logits = case(6, 4, 5)[0]
    loss = jax.jit(lambda t: mlld(**logits, temperature=t))
    slope = (loss(4 + 1e-6) - loss(4 - 1e-6)) / 2e-6
    np.testing.assert_allclose(loss(4.0), mlld(**logits), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(loss)(4.0), slope, rtol=1e-5)


def test_degenerate_batches_are_finite():
    flat, sharp = jnp.zeros((3, 4)), 1e4 * jnp.eye(3, 4)
    rows = jnp.tile(jnp.arange(4.0), (3, 1))
    both = jax.jit(jax.value_and_grad(lambda z: mlld(**z)))
    for a in (flat, sharp, rows):
        for b in (flat, sharp, rows):
            value, grads = both(dict(zip(SEATS, (a, b, a, b), strict=True)))
            assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads.values())
            if a is b:
                assert abs(value) < 1e-5 and all(jnp.abs(g).max() < 1e-5 for g in grads.values())
    one = jnp.arange(4.0)[None]
    value = mlld(student=one, teacher=-one, student_strong=one, teacher_strong=-one)
    np.testing.assert_allclose(value, slow_mlld(*[np.float64(z) for z in (one, -one, one, -one)]), rtol=1e-5)


def test_half_precision_is_widened():
    logits = {seat: z.astype(jnp.bfloat16) for seat, z in case(6, 4, 5)[0].items()}
    value = mlld(**logits)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, mlld(**{seat: jnp.float32(z) for seat, z in logits.items()}), rtol=1e-6)


def test_refusals():
    logits = case(6, 4, 5)[0]
    for kwargs in ({"temperature": 0.0}, {"temperatures": (3.0, -1.0)}, {"weak_temperatures": (0.0,)}):
        with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
            mlld(**logits, **kwargs)
    for seat in ("student_strong", "teacher_strong"):
        with pytest.raises(
            ValueError, match=r"mlld: student and teacher each need weak and strong logits of one shape"
        ):
            mlld(**logits | {seat: logits[seat][:3]})
