"""AB, FSP and FT against loops in float64, numbers of the published code, gradients, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import pretraining
from tests.losses.slopes import gradients_are_slopes
from tests.losses.test_features import slow_pool, slow_unit, wave

ab = jax.jit(pretraining.ab, static_argnames="margin")
fsp = jax.jit(pretraining.fsp)
ft = jax.jit(pretraining.ft, static_argnames=("p1", "p2"))


def slow_ab(students, teachers, margin=1.0, masks=None):
    values = np.zeros(len(students[0]))
    for i, (s, t) in enumerate(zip(students, teachers, strict=True)):
        for at in np.ndindex(s.shape):
            factor = 1.0 if masks is None else masks[i][(*at[:3], 0)]
            if t[at] <= 0 and s[at] > -margin:
                distance = s[at] + margin
            elif t[at] > 0 and s[at] <= margin:
                distance = s[at] - margin
            else:
                distance = 0.0
            values[at[0]] += 2.0 ** (i - len(students) + 1) * (factor * distance) ** 2 / 1000 * 3
    return values


def slow_flow(bottom, top):
    """Of two maps (H, W, C) of one example."""
    size = min(bottom.shape[0], top.shape[0]), min(bottom.shape[1], top.shape[1])
    bottom, top = slow_pool(bottom, *size), slow_pool(top, *size)
    return np.array([
        [(bottom[..., a] * top[..., b]).mean() for b in range(top.shape[-1])] for a in range(bottom.shape[-1])
    ])  # fmt: skip


def slow_fsp(students, teachers):
    values = np.zeros(len(students[0]))
    for example in range(len(values)):
        for i in range(len(students) - 1):
            flows = [slow_flow(maps[i][example], maps[i + 1][example]) for maps in (students, teachers)]
            values[example] += ((flows[0] - flows[1]) ** 2).sum() / flows[0].size
    return values


def slow_ft(student, teacher, p1=2, p2=1):
    size = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
    values = []
    for pair in zip(student, teacher, strict=True):
        a, b = (slow_unit((slow_pool(f, *size) ** p1).mean(-1).ravel()) for f in pair)
        values.append(np.mean(abs(a - b) ** p2))
    return np.array(values)


def drawn(rng, *shapes, b=4, scale=1.0):
    return [rng.normal(0, scale, (b, *shape)) for shape in shapes]


STAGES = ((5, 3, 4), (4, 4, 2), (1, 1, 3))


@pytest.mark.parametrize("margin", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("masked", [False, True])
def test_ab_float64_reference(rng, x64, margin, masked):
    students, teachers = drawn(rng, *STAGES), drawn(rng, *STAGES)
    teachers[0][0, 0, 0] = 0.0  # not active
    students[0][0, 0, 1], students[0][0, 0, 2] = margin, -margin
    masks = [rng.integers(0, 3, (*s.shape[:3], 1)).astype(float) for s in students] if masked else None
    ours = ab(students=students, teachers=teachers, margin=margin, masks=masks)
    assert ours.shape == (4,) and (ours > 0).all()
    np.testing.assert_allclose(ours, slow_ab(students, teachers, margin, masks), rtol=1e-12)


def test_ab_asks_for_the_side_alone(rng):
    """A student beyond the margin on the teacher's side has nothing to learn, and how far the teacher is, is one."""
    (teacher,) = drawn(rng, (3, 3, 2))
    side = np.where(teacher > 0, 1.0, -1.0)
    assert not ab(students=[1.0001 * side], teachers=[teacher]).any()
    assert not ab(students=[7 * side], teachers=[1e-9 * teacher]).any()
    np.testing.assert_allclose(ab(students=[0 * side], teachers=[teacher]), 18 * 0.003, rtol=1e-6)  # the default
    np.testing.assert_allclose(ab(students=[-side], teachers=[teacher]), 18 * 4 * 0.003, rtol=1e-6)


SIZES = {
    "equal": ((4, 4), (4, 4), (4, 4), (4, 4)),
    "odd": ((7, 5), (4, 6), (8, 8), (3, 3)),
    "one cell": ((1, 1), (5, 2), (3, 4), (1, 1)),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_fsp_float64_reference(rng, x64, sizes):
    """Two pairs of stages; sizes of student's and teacher's first two, the third is 2 x 2."""
    students = drawn(rng, (*sizes[0], 3), (*sizes[1], 2), (2, 2, 4))
    teachers = drawn(rng, (*sizes[2], 3), (*sizes[3], 2), (2, 2, 4), scale=2.0)
    ours = fsp(students=students, teachers=teachers)
    assert ours.shape == (4,)
    np.testing.assert_allclose(ours, slow_fsp(students, teachers), rtol=1e-10)
    assert not fsp(students=teachers, teachers=teachers).any()


@pytest.mark.parametrize(("p1", "p2"), [(2, 1), (1, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("sizes", [((4, 4), (4, 4)), ((7, 5), (4, 6)), ((1, 1), (3, 3))])
def test_ft_float64_reference(rng, x64, sizes, p1, p2):
    student, teacher = drawn(rng, (*sizes[0], 3), (*sizes[1], 5))
    ours = ft(student=student, teacher=teacher, p1=p1, p2=p2)
    assert ours.shape == (4,)
    np.testing.assert_allclose(ours, slow_ft(student, teacher, p1, p2), rtol=1e-10, atol=1e-15)


def test_numbers_of_the_published_code(x64):
    """RepDistiller's ABLoss, FSP and FactorTransfer on these maps, batch means; the first of each are the defaults."""
    students = [wave(3, 6, 6, 4) * 2, wave(3, 4, 4, 5) + 0.1, wave(3, 3, 3, 2) * 3]
    teachers = [wave(3, 6, 6, 4) ** 2 - 0.3, wave(3, 4, 4, 5)[::-1], wave(3, 3, 3, 2) + 0.2]
    np.testing.assert_allclose(ab(students=students, teachers=teachers).mean(), 0.5391989647299644, rtol=1e-12)
    value = ab(students=students, teachers=teachers, margin=0.5).mean()
    np.testing.assert_allclose(value, 0.3024863002242325, rtol=1e-12)
    students = [wave(3, 7, 7, 4), wave(3, 5, 5, 6) + 0.1, wave(3, 8, 8, 3) ** 2]
    teachers = [wave(3, 8, 8, 4) + 0.2, wave(3, 4, 4, 6) ** 2, wave(3, 2, 2, 3)[::-1]]
    np.testing.assert_allclose(fsp(students=students, teachers=teachers).mean(), 0.014497566599093528, rtol=1e-12)
    for powers, expected in (
        ({}, 0.1522969330269604),
        ({"p1": 1}, 0.24391792563124226),
        ({"p2": 2}, 0.02729889824781504),
        ({"p1": 3, "p2": 4}, 0.021662109481299225),
    ):
        value = ft(student=students[0], teacher=students[1], **powers).mean()
        np.testing.assert_allclose(value, expected, rtol=1e-12)


LOSSES = {
    "fsp": lambda s, t: pretraining.fsp(students=[s, s[:, :2] ** 2], teachers=[t[:, :2], t**2]),
    "ft": lambda s, t: 10 * pretraining.ft(student=s[:, :2], teacher=t),
    "ft, p1 = 1, p2 = 2": lambda s, t: 10 * pretraining.ft(student=s, teacher=t, p1=1, p2=2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(rng, x64, name):
    """Of both arguments: a teacher's map behind a refiner that learns must not be detached."""
    gradients_are_slopes(LOSSES[name], rng)


def test_gradient_of_ab_against_finite_differences(rng, x64):
    student, teacher = drawn(rng, (3, 3, 2), (3, 3, 2), b=2)

    def loss(s, t):
        return pretraining.ab(students=[s, s[:, :2]], teachers=[t, t[:, 1:]]).sum()

    total = jax.jit(loss)
    grad, none = jax.jit(jax.grad(loss, (0, 1)))(student, teacher)
    assert float(jnp.abs(grad).max()) > 1e-3 and not none.any()
    for at in np.ndindex(student.shape):
        step = np.zeros(student.shape)
        step[at] = 1e-6
        slope = (total(student + step, teacher) - total(student - step, teacher)) / 2e-6
        np.testing.assert_allclose(grad[at], slope, rtol=1e-5, atol=1e-9)


def test_half_precision_is_widened(rng):
    s, t = (jnp.asarray(f, jnp.bfloat16) for f in drawn(rng, (3, 3, 2), (3, 3, 2)))
    for name, loss in {**LOSSES, "ab": lambda s, t: pretraining.ab(students=[s], teachers=[t])}.items():
        both = jax.jit(lambda s, t, loss=loss: (loss(s, t), loss(s.astype(jnp.float32), t.astype(jnp.float32))))(s, t)
        assert both[0].dtype == jnp.float32, name
        if "fsp" not in name:  # whose case squares a map before
            np.testing.assert_array_equal(*both)


DEGENERATE = {
    "zeros": lambda s, t: (0 * s, t),
    "both zeros": lambda s, t: (0 * s, 0 * t),
    "the same": lambda s, t: (t, t),
    "a batch of one": lambda s, t: (s[:1], t[:1]),
    "huge": lambda s, t: (1e4 * s, t),
    "tiny": lambda s, t: (1e-9 * s, t),
}


def test_degenerate_maps_are_finite(rng):
    student, teacher = jnp.float32(rng.normal(0, 1, (2, 3, 3, 3, 2)))
    named = {**LOSSES, "ab": lambda s, t: pretraining.ab(students=[s], teachers=[t])}

    @jax.jit
    def all_of(s, t):
        return {n: jax.value_and_grad(lambda s, t, f=f: f(s, t).sum(), (0, 1))(s, t) for n, f in named.items()}

    for case, of in DEGENERATE.items():
        for name, results in all_of(*of(student, teacher)).items():
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(results)), (case, name)
    for name, (value, _) in all_of(student.at[0, 0, 0, 0].set(jnp.nan), teacher).items():
        assert np.isnan(value), name


def test_refusals():
    f = jnp.zeros((2, 4, 4, 3))
    for given in (([], []), ([f], [f, f])):
        with pytest.raises(ValueError, match="ab: needs as many maps of one as of the other"):
            pretraining.ab(students=given[0], teachers=given[1])
    with pytest.raises(ValueError, match="ab: needs as many maps of one as of the other, got 1 and 1 and 2"):
        pretraining.ab(students=[f], teachers=[f], masks=[None, None])
    with pytest.raises(ValueError, match=r"ab: maps of one shape wanted, got \(2, 4, 4, 3\) and \(2, 4, 4, 2\)"):
        pretraining.ab(students=[f], teachers=[f[..., :2]])
    for margin in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="ab: margin must be at least 0, got"):
            pretraining.ab(students=[f], teachers=[f], margin=margin)
    for given in (([f], [f]), ([f, f], [f, f, f])):
        with pytest.raises(ValueError, match="fsp: needs two maps or more, as many of one as of the other, got"):
            pretraining.fsp(students=given[0], teachers=given[1])
    with pytest.raises(ValueError, match=r"fsp: maps of the same widths wanted, got \[3, 3\] and \[3, 2\]"):
        pretraining.fsp(students=[f, f], teachers=[f, f[..., :2]])
    for powers in ({"p1": 0}, {"p2": 0}, {"p1": 1.5}):
        with pytest.raises(ValueError, match=f"ft: {next(iter(powers))} must be a whole number, at least 1, got"):
            pretraining.ft(student=f, teacher=f, **powers)
    with pytest.raises(TypeError):
        pretraining.ft(f, f)
