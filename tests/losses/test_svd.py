"""KDSVD against numpy's SVD in float64, numbers of the published code, gradients, equal singular values, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import svd
from tests.losses.test_features import slow_pool

kdsvd = jax.jit(svd.kdsvd, static_argnames="k")


def slow_vectors(student, teacher, k):
    """Of one example's maps (H, W, C); both (W, k)."""
    size = min(student.shape[0], teacher.shape[0]), min(student.shape[1], teacher.shape[1])
    spectra = []
    for f, n in ((student, k + 3), (teacher, k)):
        matrix = np.moveaxis(slow_pool(f, *size), 2, 0).reshape(-1, size[1])
        _, s, v = np.linalg.svd(matrix, full_matrices=False)
        spectra.append((s[:n], v[:n]))
    (_, ours), (s, theirs) = spectra
    shares = s / max(np.sqrt((s**2).sum()), 1e-12)
    pair = [[], []]
    for share, v in zip(shares, theirs, strict=True):
        v = -v if v.sum() < 0 else v
        cosines = ours @ v
        best = np.argmax(abs(cosines))
        pair[0].append(share * np.sign(cosines[best]) * ours[best])
        pair[1].append(share * v)
    return [np.array(p).T for p in pair]


def slow_kdsvd(students, teachers, k=1):
    values = np.zeros(len(students[0]))
    for i in range(len(values)):
        vectors = [slow_vectors(np.asarray(s[i]), np.asarray(t[i]), k) for s, t in zip(students, teachers, strict=True)]
        for before, now in zip(vectors, vectors[1:], strict=False):
            for x, y, j in np.ndindex(len(now[0]), len(before[0]), k):
                s, t = (np.exp(-((a[x, j] - b[y, j]) ** 2) / 8) for a, b in zip(now, before, strict=True))
                values[i] += (s - t) ** 2
    return values


SIZES = [
    [((6, 6), (6, 6)), ((3, 3), (3, 3))],
    [((7, 7), (5, 5)), ((4, 4), (8, 8)), ((4, 4), (4, 4))],
    [((3, 9), (6, 5)), ((1, 3), (1, 3))],  # of the last, the student's matrix has as many columns as rows
]


def stages(rng, sizes, b=3, dtype=jnp.float64):
    pairs = [(rng.normal(0, 1, (b, *s, 3)), rng.normal(0, 2, (b, *t, 5))) for s, t in sizes]
    return [[jnp.asarray(f, dtype) for f in maps] for maps in zip(*pairs, strict=True)]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("sizes", SIZES)
def test_float64_reference(rng, x64, sizes, k):
    students, teachers = stages(rng, sizes)
    ours = kdsvd(students=students, teachers=teachers, k=k)
    assert ours.shape == (3,)
    np.testing.assert_allclose(ours, slow_kdsvd(students, teachers, k), rtol=1e-9)


def wave(*shape):
    return jnp.sin(jnp.arange(float(np.prod(shape)))).reshape(shape)


def waves():
    students = [wave(3, 7, 7, 4) ** 2, wave(3, 4, 4, 5) ** 2, wave(3, 4, 4, 2) ** 2]
    return students, [wave(3, 7, 7, 6) ** 2 + 0.1, wave(3, 4, 4, 3) ** 2, abs(wave(3, 4, 4, 7))]


def test_a_number_of_the_published_code(x64):
    """mdistiller's kdsvd_loss on these maps, none of them negative; k = 1 is the default."""
    students, teachers = waves()
    np.testing.assert_allclose(kdsvd(students=students, teachers=teachers).mean(), 0.00010825572898662027, rtol=1e-10)


def test_float32_agrees_with_float64(rng):
    students, teachers = stages(rng, SIZES[0], dtype=jnp.float32)
    teachers = [t**2 for t in teachers]  # singular values far from one another
    np.testing.assert_allclose(kdsvd(students=students, teachers=teachers), slow_kdsvd(students, teachers), rtol=2e-3)


def test_signs_and_scale_do_not_matter(rng):
    """A decomposition may return any sign of a vector; every map may come in another unit."""
    students, teachers = stages(rng, SIZES[0], dtype=jnp.float32)
    value = kdsvd(students=students, teachers=teachers)
    for change in (lambda x: -x, lambda x: 1e-4 * x, lambda x: 1e8 * x, lambda x: x[:, ::-1, :, ::-1]):
        for maps in ((students, [*map(change, teachers)]), ([*map(change, students)], teachers)):
            np.testing.assert_allclose(kdsvd(students=maps[0], teachers=maps[1]), value, rtol=1e-3)


def test_half_precision_is_widened(rng):
    students, teachers = stages(rng, SIZES[0], dtype=jnp.bfloat16)
    wide = [[f.astype(jnp.float32) for f in maps] for maps in (students, teachers)]
    ours = kdsvd(students=students, teachers=teachers)
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, kdsvd(students=wide[0], teachers=wide[1]))


def test_gradients_against_finite_differences(rng, x64):
    """Of both arguments, and the gradient's own: an outer objective differentiates through a step."""
    maps = stages(rng, [((2, 4), (2, 4)), ((2, 3), (2, 3))], b=2)
    along = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 1, x.shape)), maps)
    loss = jax.jit(lambda maps: 1e3 * svd.kdsvd(students=maps[0], teachers=maps[1], k=2).sum())
    grad = jax.jit(jax.grad(loss))
    dot = lambda a, b: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))  # noqa: E731
    second = jax.jit(jax.grad(lambda maps: dot(grad(maps), along)))(maps)
    grads = grad(maps)
    assert all(jnp.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads))
    for _ in range(3):
        step = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 1, x.shape)), maps)
        ends = [jax.tree.map(lambda x, d: x + h * d, maps, step) for h in (1e-6, -1e-6)]  # noqa: B023
        np.testing.assert_allclose(dot(grads, step), (loss(ends[0]) - loss(ends[1])) / 2e-6, rtol=1e-5, atol=1e-6)
        slope = (dot(grad(ends[0]), along) - dot(grad(ends[1]), along)) / 2e-6
        np.testing.assert_allclose(dot(second, step), slope, rtol=1e-4, atol=1e-4)


def equal(x):
    """Maps whose singular values are all equal."""
    return jnp.broadcast_to(jnp.eye(x.shape[1], x.shape[2])[None, :, :, None], x.shape)


DEGENERATE = {"zeros": jnp.zeros_like, "ones": jnp.ones_like, "equal values": equal, "tiny": lambda x: 1e-30 * x}


@jax.jit
def both(maps):
    """Value and gradient, and the gradient of the gradient's size."""
    measure = jax.value_and_grad(lambda maps: svd.kdsvd(students=maps[0], teachers=maps[1], k=2).sum())
    size = lambda maps: (sum(jnp.sum(g**2) for g in jax.tree.leaves(measure(maps)[1])), measure(maps))  # noqa: E731
    second, first = jax.grad(size, has_aux=True)(maps)
    return *first, second


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_maps_are_finite(rng, name):
    students, teachers = stages(rng, [((4, 4), (4, 4)), ((3, 3), (3, 3))], dtype=jnp.float32)
    changed = [[DEGENERATE[name](x) for x in maps] for maps in (students, teachers)]
    for maps in ([changed[0], teachers], [students, changed[1]], changed):
        results = both(maps)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(results))
        assert max(jnp.abs(g).max() for g in jax.tree.leaves(results[1])) < 1e3 or name == "tiny"
    value, *_ = both([[x.at[0, 0, 0, 0].set(jnp.nan) for x in students], teachers])
    assert np.isnan(value)


def test_a_dead_teacher_asks_for_nothing(rng):
    students, teachers = stages(rng, SIZES[0], dtype=jnp.float32)
    assert not kdsvd(students=students, teachers=[0 * t for t in teachers], k=2).any()
    assert kdsvd(students=[0 * s for s in students], teachers=teachers).all()


def test_refusals():
    f = jnp.zeros((2, 4, 3, 5))
    for students, teachers in (([], []), ([f], [f]), ([f, f], [f, f, f])):
        message = f"kdsvd: needs two or more maps, as many of one as of the other, got {len(students)} and"
        with pytest.raises(ValueError, match=message):
            svd.kdsvd(students=students, teachers=teachers)
    for k in (0, -1, 1.5, 4):
        with pytest.raises(ValueError, match="kdsvd: k must be a whole number from 1 to 3, what the smallest map has"):
            svd.kdsvd(students=[f, f], teachers=[f, f], k=k)
    with pytest.raises(ValueError, match="from 1 to 2, "):
        svd.kdsvd(students=[f, f[:, :1, :, :2]], teachers=[f, f], k=3)
    with pytest.raises(TypeError):
        svd.kdsvd([f, f], [f, f])
