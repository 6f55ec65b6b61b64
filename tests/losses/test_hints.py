"""VID's, OFD's and ReviewKD's losses against loops in float64, gradients, limits, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import hints
from tests.losses.slopes import gradients_are_slopes
from tests.losses.test_features import slow_pool, wave

vid, ofd, hcl = map(jax.jit, (hints.vid, hints.ofd, hints.hcl))


def slow_vid(student, teacher, variance):
    out = np.zeros(len(student))
    for i, *place in np.ndindex(student.shape):
        s = variance[place[-1]]
        out[i] += 0.5 * ((student[i][tuple(place)] - teacher[i][tuple(place)]) ** 2 / s + np.log(s))
    return out / student[0].size


def slow_ofd(students, teachers, margins):
    """The three cases of the published code, cell by cell."""
    out = np.zeros(len(students[0]))
    for stage, (student, teacher, margin) in enumerate(zip(students, teachers, margins, strict=True)):
        for i in range(len(student)):
            pooled = slow_pool(teacher[i], *student.shape[1:3])
            for place in np.ndindex(student.shape[1:]):
                s, t, m = student[i][place], pooled[place], margin[place[-1]]
                value = 0.0
                if s > m and t <= m:
                    value += (s - m) ** 2
                if s > t and m < t <= 0:
                    value += (s - t) ** 2
                if t > 0:
                    value += (s - t) ** 2
                out[i] += value / 2 ** (len(students) - 1 - stage)
    return out


def slow_hcl(students, teachers):
    out = np.zeros(len(students[0]))
    for s, t in zip(students, teachers, strict=True):
        if s.ndim == 2:
            out += ((s - t) ** 2).mean(1)
            continue
        for i in range(len(s)):
            values, weights = [((s[i] - t[i]) ** 2).mean()], [1.0]
            for n in (4, 2, 1):
                if n < s.shape[1]:
                    pair = (slow_pool(x[i], n, min(n, s.shape[2])) for x in (s, t))
                    values.append((np.subtract(*pair) ** 2).mean())
                    weights.append(weights[-1] / 2)
            out[i] += np.dot(values, weights) / sum(weights)
    return out


def numpy(*maps):
    return [[np.asarray(x) for x in several] for several in maps]


def test_vid_float64_reference(rng, x64):
    student, teacher = jnp.asarray(rng.normal(0, 2, (2, 3, 5, 4, 6)))
    variance = jnp.asarray(rng.uniform(0.1, 8, 6))
    ours = vid(student=student, teacher=teacher, variance=variance)
    assert ours.shape == (3,)
    np.testing.assert_allclose(ours, slow_vid(*numpy((student, teacher, variance))[0]), rtol=1e-12)


def test_vid_is_the_density_but_for_its_constant(x64):
    """Hence the least at the variance that is the mean squared difference."""
    student, teacher = wave(1, 4, 4, 3), wave(1, 4, 4, 3)[:, ::-1] + 0.3
    density = jax.scipy.stats.norm.logpdf(teacher, student, jnp.sqrt(2.5)).mean()
    ours = vid(student=student, teacher=teacher, variance=jnp.full(3, 2.5))[0]
    np.testing.assert_allclose(ours, -density - 0.5 * np.log(2 * np.pi), rtol=1e-12)
    best = ((student - teacher) ** 2).mean((0, 1, 2))
    slope = jax.grad(lambda v: hints.vid(student=student, teacher=teacher, variance=v).sum())(best)
    np.testing.assert_allclose(slope, 0, atol=1e-15)


def ofd_case(rng, sizes, dtype=jnp.float64):
    """Teachers of which about a third lies below the margin, a third between margin and 0, a third above 0."""
    widths = range(2, 2 + len(sizes))
    students = [jnp.asarray(rng.normal(-0.5, 1, (3, *s, c)), dtype) for (s, _), c in zip(sizes, widths, strict=True)]
    teachers = [jnp.asarray(rng.normal(-0.5, 2, (3, *t, c)), dtype) for (_, t), c in zip(sizes, widths, strict=True)]
    return students, teachers, [jnp.asarray(-rng.uniform(0, 1.5, c), dtype) for c in widths]


@pytest.mark.parametrize(
    "sizes", [[((4, 4), (4, 4))], [((4, 3), (7, 5)), ((2, 2), (4, 4)), ((1, 1), (3, 2))], [((4, 4), (2, 2))]]
)
def test_ofd_float64_reference(rng, x64, sizes):
    case = ofd_case(rng, sizes)
    ours = ofd(students=case[0], teachers=case[1], margins=case[2])
    assert ours.shape == (3,)
    np.testing.assert_allclose(ours, slow_ofd(*numpy(*case)), rtol=1e-12)


def test_ofd_by_hand():
    """Rows: teacher above 0, between margin and 0, below the margin -2. Columns: a student below, between, above."""
    teacher = jnp.float32([[1, 1, 1], [-1, -1, -1], [-3, -3, -3]])
    student = jnp.float32([[-5, 0, 2], [-5, -1.5, 2], [-5, -2.5, 2]])
    each = ofd(
        students=[student.reshape(9, 1, 1, 1)], teachers=[teacher.reshape(9, 1, 1, 1)], margins=[-jnp.full(1, 2)]
    )
    np.testing.assert_array_equal(each, [36, 1, 1, 0, 0, 9, 0, 0, 16])


def hcl_case(rng, shapes, dtype=jnp.float64):
    return [[jnp.asarray(rng.normal(0, 1, (3, *s)), dtype) for s in shapes] for _ in range(2)]


@pytest.mark.parametrize(
    "shapes", [[(8, 8, 2), (4, 4, 3), (2, 2, 4), (4,)], [(7, 5, 3), (5, 3, 2), (3, 9, 2)], [(1, 1, 5)]]
)
def test_hcl_float64_reference(rng, x64, shapes):
    students, teachers = hcl_case(rng, shapes)
    ours = hcl(students=students, teachers=teachers)
    assert ours.shape == (3,)
    np.testing.assert_allclose(ours, slow_hcl(*numpy(students, teachers)), rtol=1e-12)


def test_hcl_by_hand():
    """Ones against zeros differ by 1 on every level; a checkerboard of 1 and -1 on the first only, or the first two."""
    zeros = jnp.zeros((1, 8, 8, 1))
    sign = lambda n: jnp.where((jnp.arange(8)[:, None] // n + jnp.arange(8) // n) % 2, 1.0, -1.0)[None, :, :, None]  # noqa: E731
    value = lambda x: float(hints.hcl(students=[x], teachers=[x * 0])[0])  # noqa: E731
    np.testing.assert_allclose(
        [value(zeros + 1), value(sign(1)), value(sign(2)), value(sign(4))],
        [1, 1 / 1.875, 1.5 / 1.875, 1.75 / 1.875],
        rtol=1e-6,
    )
    np.testing.assert_allclose([value(sign(1)[:, :4, :4]), value(sign(1)[:, :2, :2])], [1 / 1.75, 1 / 1.5], rtol=1e-6)
    np.testing.assert_allclose(value(jnp.full((1, 7), 3.0)), 9)


MARGINS = np.array([-0.4, -0.8])
LOSSES = {
    "vid": lambda s, t: hints.vid(student=s, teacher=t, variance=jnp.array([0.5, 2.0])),
    "ofd": lambda s, t: hints.ofd(students=[s, s[:, :2]], teachers=[t, t], margins=[MARGINS, 0 * MARGINS]),
    "hcl": lambda s, t: hints.hcl(students=[s, s[:, 0, 0]], teachers=[t, t[:, 1, 0]]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(rng, x64, name):
    """Of both arguments: nothing is detached."""
    gradients_are_slopes(LOSSES[name], rng)


def test_vid_gradient_of_the_variance(rng, x64):
    student, teacher = jnp.asarray(rng.normal(0, 1, (2, 1, 2, 3, 2)))
    loss = jax.jit(lambda v: hints.vid(student=student, teacher=teacher, variance=v).sum())
    at = jnp.array([0.3, 4.0])
    for i, slope in enumerate(jax.grad(loss)(at)):
        np.testing.assert_allclose(slope, (loss(at.at[i].add(1e-6)) - loss(at.at[i].add(-1e-6))) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_dead_and_huge_maps_are_finite_and_nan_is_seen(rng, name, scale):
    """A batch of one; equal maps have no gradient."""
    student, teacher = jnp.float32(rng.normal(0, 1, (2, 1, 3, 3, 2)))
    run = jax.jit(jax.value_and_grad(lambda s, t: LOSSES[name](s, t).sum(), (0, 1)))
    value, grads = run(scale * student, teacher)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads) and value > 0
    assert not any(g.any() for g in run(jnp.zeros_like(teacher), jnp.zeros_like(teacher))[1])
    assert np.isnan(run(student.at[0, 0, 0, 0].set(jnp.nan), teacher)[0])
    assert np.isnan(run(student, teacher.at[0, 1, 0, 0].set(jnp.nan))[0])


def test_half_precision_is_widened(rng):
    student, teacher = jnp.asarray(rng.normal(0, 1, (2, 2, 5, 5, 2)), jnp.bfloat16)
    for loss in LOSSES.values():
        ours = jax.jit(loss)(student, teacher)
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, jax.jit(loss)(student.astype(jnp.float32), teacher.astype(jnp.float32)))


def test_float32_agrees_with_float64(rng):
    case = ofd_case(rng, [((4, 3), (7, 5)), ((2, 2), (4, 4))], jnp.float32)
    np.testing.assert_allclose(
        ofd(students=case[0], teachers=case[1], margins=case[2]), slow_ofd(*map(list, numpy(*case))), rtol=1e-5
    )
    maps = hcl_case(rng, [(7, 5, 3), (5, 3, 2)], jnp.float32)
    np.testing.assert_allclose(hcl(students=maps[0], teachers=maps[1]), slow_hcl(*numpy(*maps)), rtol=1e-5)


def test_refusals():
    f, c = jnp.zeros((2, 4, 4, 3)), jnp.zeros(3)
    with pytest.raises(ValueError, match=r"vid: maps of one shape wanted, got \(2, 4, 4, 3\) and \(2, 2, 4, 3\)"):
        hints.vid(student=f, teacher=f[:, :2], variance=c)
    with pytest.raises(ValueError, match=r"vid: variances \(3,\) wanted, got \(2,\)"):
        hints.vid(student=f, teacher=f, variance=c[:2])
    for students, teachers, margins, counts in (([], [], [], "0"), ([f], [f, f], [c], "1 and 2"), ([f], [f], [], "0")):
        with pytest.raises(ValueError, match=f"ofd: needs as many of one as of the other, got .*{counts}"):
            hints.ofd(students=students, teachers=teachers, margins=margins)
    for teacher, margin in ((f[..., :2], c), (f, c[:2])):
        with pytest.raises(ValueError, match="ofd: maps and margins of one width wanted"):
            hints.ofd(students=[f], teachers=[teacher], margins=[margin])
    with pytest.raises(ValueError, match="hcl: needs as many of one as of the other, got 1 and 2"):
        hints.hcl(students=[f], teachers=[f, f])
    with pytest.raises(ValueError, match="hcl: maps of one shape wanted"):
        hints.hcl(students=[f], teachers=[f[:, :1]])
    with pytest.raises(TypeError):
        hints.hcl([f], [f])
