"""Losses on feature maps against loops in float64, numbers of the published code, gradients, refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.losses import features
from kd_jax.losses.common import to_common_size, windows
from tests.losses.slopes import gradients_are_slopes

at = jax.jit(losses.at, static_argnames="p")
fitnet = jax.jit(losses.fitnet)
nst = jax.jit(features.nst)
cat_kd = jax.jit(features.cat_kd, static_argnames=("resolution", "normalize"))


def slow_fitnet(student, teacher, mask=None):
    values = []
    for i in range(len(student)):
        total = 0.0
        for place in np.ndindex(student.shape[1:]):
            factor = 1.0 if mask is None else mask[i, place[0], place[1], 0]
            total += (factor * student[i][place] - factor * teacher[i][place]) ** 2
        values.append(total / student[i].size)
    return np.array(values)


def slow_pool(f, height, width):
    """One map (H, W, C) by PyTorch's rule: from floor(i h / H) to ceil((i + 1) h / H)."""
    out = np.zeros((height, width, f.shape[-1]))
    for i, j in np.ndindex(height, width):
        rows = slice(int(np.floor(i * f.shape[0] / height)), int(np.ceil((i + 1) * f.shape[0] / height)))
        columns = slice(int(np.floor(j * f.shape[1] / width)), int(np.ceil((j + 1) * f.shape[1] / width)))
        out[i, j] = f[rows, columns].mean((0, 1))
    return out


def slow_attention(f, p):
    a = np.array([[sum(v**p for v in f[i, j]) / f.shape[-1] for j in range(f.shape[1])] for i in range(len(f))])
    return a.ravel() / max(np.sqrt((a**2).sum()), 1e-12)


def slow_at(students, teachers, p=2):
    values = np.zeros(len(students[0]))
    for s, t in zip(students, teachers, strict=True):
        height, width = min(s.shape[1], t.shape[1]), min(s.shape[2], t.shape[2])
        for i in range(len(s)):
            a, b = (slow_attention(slow_pool(f[i], height, width), p) for f in (s, t))
            values[i] += ((a - b) ** 2).sum() / (height * width)
    return values


def slow_unit(v):
    return v / max(np.sqrt((v**2).sum()), 1e-12)


def slow_nst(students, teachers):
    def kernel(f, g):
        channels = [[slow_unit(x[..., c].ravel()) for c in range(x.shape[-1])] for x in (f, g)]
        return np.mean([(a @ b) ** 2 for a in channels[0] for b in channels[1]])

    values = np.zeros(len(students[0]))
    for s, t in zip(students, teachers, strict=True):
        size = min(s.shape[1], t.shape[1]), min(s.shape[2], t.shape[2])
        for i in range(len(s)):
            a, b = slow_pool(s[i], *size), slow_pool(t[i], *size)
            values[i] += kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)
    return values


def slow_cat_kd(student, teacher, resolution=2, normalize=True):
    values = []
    for s, t in zip(student, teacher, strict=True):
        maps = [slow_pool(f, resolution, resolution) for f in (s, t)]
        if normalize:
            maps = [np.stack([slow_unit(f[..., k]) for k in range(f.shape[-1])], axis=-1) for f in maps]
        values.append(((maps[0] - maps[1]) ** 2).sum() / maps[0].size)
    return np.array(values)


SIZES = [
    [((8, 8), (8, 8))],
    [((7, 7), (5, 5)), ((4, 4), (8, 8))],
    [((3, 9), (6, 5)), ((13, 13), (1, 1)), ((7, 7), (4, 4))],
]


def stages(rng, sizes, b=4, dtype=jnp.float64):
    pairs = [(rng.normal(0, 1, (b, *s, 3)), rng.normal(0, 2, (b, *t, 5))) for s, t in sizes]
    return [[jnp.asarray(f, dtype) for f in maps] for maps in zip(*pairs, strict=True)]


@pytest.mark.parametrize("shape", [(4, 8, 8, 3), (5, 7, 3, 2), (1, 1, 1, 6)])
@pytest.mark.parametrize("masked", [False, True])
def test_fitnet_float64_reference(rng, x64, shape, masked):
    student, teacher = rng.normal(0, 3, (2, *shape))
    mask = rng.integers(0, 4, (*shape[:-1], 1)) if masked else None
    ours = fitnet(student=jnp.asarray(student), teacher=jnp.asarray(teacher), mask=mask)
    assert ours.shape == shape[:1]
    np.testing.assert_allclose(ours, slow_fitnet(student, teacher, mask), rtol=1e-12)


def test_a_mask_of_ones_is_none(rng):
    student, teacher = jnp.float32(rng.normal(0, 1, (2, 4, 5, 7, 3)))
    plain = fitnet(student=student, teacher=teacher)
    np.testing.assert_array_equal(fitnet(student=student, teacher=teacher, mask=jnp.ones((4, 5, 7, 1))), plain)
    assert not fitnet(student=student, teacher=teacher, mask=jnp.zeros((4, 5, 7, 1))).any()


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", SIZES)
def test_at_float64_reference(rng, x64, p, sizes):
    students, teachers = stages(rng, sizes)
    ours = at(students=students, teachers=teachers, p=p)
    assert ours.shape == (4,)
    np.testing.assert_allclose(
        ours, slow_at(*[[np.asarray(f) for f in m] for m in (students, teachers)], p), rtol=1e-10
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_nst_float64_reference(rng, x64, sizes):
    """Maps of fewer places than channels among them: the two ways to the value."""
    students, teachers = stages(rng, sizes)
    teachers = [t * jnp.arange(5) for t in teachers]  # the first channel is dead
    ours = nst(students=students, teachers=teachers)
    assert ours.shape == (4,)
    np.testing.assert_allclose(ours, slow_nst(*[[np.asarray(f) for f in m] for m in (students, teachers)]), rtol=1e-10)


def test_nst_takes_no_notice_of_scale_and_order(rng):
    (student,), (teacher,) = stages(rng, [((5, 4), (5, 4))], dtype=jnp.float32)
    value = nst(students=[student], teachers=[teacher])
    mixed = nst(students=[student[..., ::-1] * jnp.array([3.0, -1.0, 0.1])], teachers=[teacher])
    np.testing.assert_allclose(mixed, value, rtol=1e-5)
    again = nst(students=[teacher[..., ::-1]], teachers=[2 * teacher])
    np.testing.assert_allclose(again, 0, atol=1e-6)


CAMS = [((8, 8), (8, 8), 2), ((7, 7), (4, 4), 2), ((13, 6), (5, 7), 4), ((1, 2), (8, 3), 2), ((2, 2), (9, 8), 4)]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("student", "teacher", "resolution"), CAMS)
def test_cat_kd_float64_reference(rng, x64, student, teacher, resolution, normalize):
    """Smaller maps too, where PyTorch's adaptive pooling repeats."""
    student, teacher = rng.normal(0, 1, (3, *student, 6)), rng.normal(0, 2, (3, *teacher, 6))
    teacher[..., 1] = 0
    kwargs = {"resolution": resolution, "normalize": normalize}
    ours = cat_kd(student=student, teacher=teacher, **kwargs)
    assert ours.shape == (3,)
    np.testing.assert_allclose(ours, slow_cat_kd(student, teacher, **kwargs), rtol=1e-12)


def test_cat_kd_defaults(rng, x64):
    student, teacher = rng.normal(0, 1, (2, 3, 6, 5, 4))
    np.testing.assert_allclose(cat_kd(student=student, teacher=teacher), slow_cat_kd(student, teacher), rtol=1e-12)


def wave(*shape):
    return jnp.sin(jnp.arange(float(np.prod(shape)))).reshape(shape)


def test_numbers_of_the_published_code(x64):
    """mdistiller's at_loss and nst_loss, PyTorch's mse_loss, on these maps, batch means; p = 2 is the default."""
    students, teachers = [wave(3, 7, 7, 4), wave(3, 4, 4, 5)], [wave(3, 5, 5, 6) + 0.1, wave(3, 8, 8, 2) ** 2]
    for kwargs, value in (
        ({}, 0.03301484924304194),
        ({"p": 1}, 0.20708970104217878),
        ({"p": 4}, 0.05736451573190229),
    ):
        np.testing.assert_allclose(at(students=students, teachers=teachers, **kwargs).mean(), value, rtol=1e-12)
    np.testing.assert_allclose(nst(students=students, teachers=teachers).mean(), 2.4212790706399563, rtol=1e-12)
    x = wave(3, 5, 4, 2)
    np.testing.assert_allclose(fitnet(student=x, teacher=x[::-1]).mean(), 0.7554732620233536, rtol=1e-12)


def test_float32_agrees_with_float64(rng):
    students, teachers = stages(rng, SIZES[2], b=16, dtype=jnp.float32)
    slow = slow_at(*[[np.float64(f) for f in m] for m in (students, teachers)])
    np.testing.assert_allclose(at(students=students, teachers=teachers), slow, rtol=1e-5)


def test_half_precision_is_widened(rng):
    (student,), (teacher,) = stages(rng, [((4, 4), (2, 2))], dtype=jnp.bfloat16)
    wide = [f.astype(jnp.float32) for f in (student, teacher)]
    ours = at(students=[student], teachers=[teacher])
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, at(students=wide[:1], teachers=wide[1:]))
    ours = fitnet(student=student, teacher=student[::-1])
    np.testing.assert_array_equal(ours, fitnet(student=wide[0], teacher=wide[0][::-1]))
    ours = nst(students=[student], teachers=[teacher])
    np.testing.assert_array_equal(ours, nst(students=wide[:1], teachers=wide[1:]))
    ours = cat_kd(student=student, teacher=student[::-1])
    np.testing.assert_array_equal(ours, cat_kd(student=wide[0], teacher=wide[0][::-1]))


def test_areas_is_the_mean_over_all_elements(rng, x64):
    student, teacher = ([jnp.asarray(rng.normal(0, 1, (3, 4, 5, c))) for c in (7, 2, 2)] for _ in range(2))
    errors = np.concatenate([np.asarray(s - t).reshape(3, -1) ** 2 for s, t in zip(student, teacher, strict=True)], 1)
    assert errors.shape == (3, 4 * 5 * 11)
    np.testing.assert_allclose(losses.areas(student=student, teacher=teacher), errors.mean(1), rtol=1e-12)


LOSSES = {
    "fitnet": lambda s, t: losses.fitnet(student=s, teacher=t, mask=jnp.arange(18.0).reshape(2, 3, 3, 1)),
    "at": lambda s, t: losses.at(students=[s, s[:, :2]], teachers=[t[:, :2], t], p=2),
    "at, p = 3": lambda s, t: losses.at(students=[s], teachers=[t], p=3),
    "areas": lambda s, t: losses.areas(student=[s, s**2], teacher=[t, t]),
    "nst": lambda s, t: features.nst(students=[s, s.reshape(2, 3, 1, 6)], teachers=[t, t[:, :, :1]]),
    "cat_kd": lambda s, t: features.cat_kd(student=s, teacher=t, normalize=False),
    "cat_kd, normalised": lambda s, t: features.cat_kd(student=s, teacher=t, resolution=3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(rng, x64, name):
    """Of both arguments: a teacher's map behind a refiner that learns must not be detached."""
    gradients_are_slopes(LOSSES[name], rng)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_have_gradients(rng, x64, name):
    """An outer objective differentiates through a step."""
    maps, along = jnp.asarray(rng.normal(0, 1, (2, 2, 2, 3, 3, 2)))
    grad = jax.jit(jax.grad(lambda maps: LOSSES[name](*maps).sum()))
    exact = jax.jit(jax.grad(lambda maps: jnp.vdot(grad(maps), along)))(maps)
    np.testing.assert_allclose(
        exact, (grad(maps + 1e-6 * along) - grad(maps - 1e-6 * along)) / 2e-6, rtol=1e-5, atol=1e-7
    )


SCALED = {
    "at": lambda s, t: losses.at(students=[s], teachers=[t]),
    "nst": lambda s, t: features.nst(students=[s], teachers=[t]),
    "nst, more channels than places": lambda s, t: features.nst(students=[s.reshape(3, 2, 2, 8)], teachers=[t]),
    "cat_kd": lambda s, t: features.cat_kd(student=s, teacher=t),
}


@partial(jax.jit, static_argnames="name")
@partial(jax.value_and_grad, argnums=0)
def dead_or_huge(student, teacher, scale, name):
    return SCALED[name](scale * student, teacher).sum()


@pytest.mark.parametrize("name", SCALED)
def test_dead_and_huge_maps_are_finite(rng, name):
    student, teacher = jnp.float32(rng.normal(0, 1, (2, 3, 4, 4, 2)))
    for scale in (0.0, 1e-9, 1e4):
        value, grad = dead_or_huge(student, teacher, scale, name)
        assert np.isfinite(value) and np.isfinite(grad).all() and value > 0, scale
    value, _ = dead_or_huge(student.at[0, 0, 0, 0].set(jnp.nan), teacher, 1.0, name)
    assert np.isnan(value)


def test_windows():
    np.testing.assert_array_equal(windows(4, 2), [[1, 1, 0, 0], [0, 0, 1, 1]])
    np.testing.assert_array_equal(windows(5, 3), [[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(windows(2, 5), [[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]])
    np.testing.assert_array_equal(windows(3, 3), np.eye(3))


def test_common_size(rng):
    a, b = jnp.float32(rng.normal(0, 1, (2, 6, 5, 3))), jnp.float32(rng.normal(0, 1, (2, 4, 7, 2)))
    pooled = to_common_size(a, b)
    for f, ours in zip((a, b), pooled, strict=True):
        np.testing.assert_allclose(ours, [slow_pool(x, 4, 5) for x in np.asarray(f)], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(to_common_size(a, a)[0], a)


def test_refusals():
    f = jnp.zeros((2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"fitnet: maps of one shape wanted, got \(2, 4, 4, 3\) and \(2, 1, 4, 3\)"):
        losses.fitnet(student=f, teacher=f[:, :1])
    with pytest.raises(ValueError, match=r"fitnet: a mask \(2, 4, 4, 1\) wanted, got \(2, 4, 4, 3\)"):
        losses.fitnet(student=f, teacher=f, mask=f)
    with pytest.raises(ValueError, match="areas: maps of one shape"):
        losses.areas(student=[f, f], teacher=[f])
    for students, teachers in (([], []), ([f], [f, f])):
        with pytest.raises(ValueError, match="at: needs as many maps of one as of the other"):
            losses.at(students=students, teachers=teachers)
        with pytest.raises(ValueError, match="nst: needs as many maps of one as of the other"):
            features.nst(students=students, teachers=teachers)
    with pytest.raises(ValueError, match="cat_kd: maps of as many classes wanted, got 3 and 2"):
        features.cat_kd(student=f, teacher=f[..., :2])
    with pytest.raises(ValueError, match="cat_kd: resolution must be at least 1, got 0"):
        features.cat_kd(student=f, teacher=f, resolution=0)
    with pytest.raises(ValueError, match="cat_kd: resolution 4: a map 3 high or wide is smaller, but no divisor"):
        features.cat_kd(student=f, teacher=f[:, :3], resolution=4)
    for p in (0, -1, 1.5):
        with pytest.raises(ValueError, match="at: p must be a whole number"):
            losses.at(students=[f], teachers=[f], p=p)
    with pytest.raises(TypeError):
        losses.fitnet(f, f)
