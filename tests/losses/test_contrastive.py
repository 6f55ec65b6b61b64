"""CRD's loss and its constants against loops of the published formulas in float64, gradients, extremes, refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import contrastive

crd = jax.jit(contrastive.crd, static_argnames="temperature")
crd_scales = jax.jit(contrastive.crd_scales, static_argnames="temperature")


def scored(v, bank, rows, temperature):
    """(B, M + 1), one score after the other; the positive's row first."""
    return np.array(
        [[math.exp(float(a @ bank[i]) / temperature) for i in numbers] for a, numbers in zip(v, rows, strict=True)]
    )


def slow_scales(student, teacher, student_bank, teacher_bank, index, negatives, temperature=0.07):
    rows = np.concatenate([index[:, None], negatives], 1)
    pairs = ((student, teacher_bank), (teacher, student_bank))
    return [scored(v, bank, rows, temperature).mean() * len(bank) for v, bank in pairs]


def slow_crd(student_scale, teacher_scale, temperature=0.07, **given):
    """As published: each anchor's loss with its constant, which here may be 0 for the batch's own."""
    s, t, student_bank, teacher_bank, index, negatives = given.values()
    scales = slow_scales(**given, temperature=temperature)
    rows, m, n = np.concatenate([index[:, None], negatives], 1), negatives.shape[1], len(student_bank)
    values = np.zeros(len(s))
    for k, (v, bank, scale) in enumerate(((s, teacher_bank, student_scale), (t, student_bank, teacher_scale))):
        p = scored(v, bank, rows, temperature) / (scale or scales[k])
        for b in range(len(s)):
            values[b] -= math.log(p[b, 0] / (p[b, 0] + m / n + 1e-7))
            for j in range(1, m + 1):
                values[b] -= math.log((m / n) / (p[b, j] + m / n + 1e-7))
    return values


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def case(rng, b=4, n=12, m=5, d=3):
    """Embeddings of length 1, banks that are not, and negatives of which some come twice."""
    given = {"student": unit(rng.normal(0, 1, (b, d))), "teacher": unit(rng.normal(0, 1, (b, d)))}
    given |= {"student_bank": rng.uniform(-1, 1, (n, d)), "teacher_bank": unit(rng.normal(0, 1, (n, d)))}
    return given | {
        "index": rng.permutation(n)[:b].astype(np.int32), "negatives": rng.integers(0, n, (b, m)).astype(np.int32),
    }  # fmt: skip


SIZES = [{}, {"b": 1, "n": 2, "m": 1, "d": 1}, {"b": 3, "n": 5, "m": 20}]


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("size", SIZES)
def test_float64_reference(rng, x64, size, temperature):
    given = case(rng, **size)
    for scales in ((30.0, 7.0), (0.0, 7.0), (0.0, 0.0)):
        scales = dict(zip(("student_scale", "teacher_scale"), scales, strict=True))
        ours = crd(**given, **{k: jnp.float64(x) for k, x in scales.items()}, temperature=temperature)
        assert ours.shape == given["index"].shape and ours.dtype == jnp.float64
        np.testing.assert_allclose(ours, slow_crd(**scales, **given, temperature=temperature), rtol=1e-10)
    ours = crd_scales(**given, temperature=temperature)
    np.testing.assert_allclose(ours, slow_scales(**given, temperature=temperature), rtol=1e-12)


def test_the_published_temperature_is_the_default(rng, x64):
    given = case(rng)
    ours = crd(**given, student_scale=30.0, teacher_scale=7.0)
    np.testing.assert_allclose(ours, slow_crd(30.0, 7.0, **given), rtol=1e-10)
    np.testing.assert_allclose(crd_scales(**given), slow_scales(**given), rtol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 9.0])
def test_gradients_against_finite_differences(rng, x64, scale):
    """Of both embeddings, both banks and the constants; nothing is detached, constants of the batch neither."""
    given = case(rng, b=2, n=4, m=3, d=2)
    whole = {name: given.pop(name) for name in ("index", "negatives")}
    given |= {"student_scale": np.float64(scale), "teacher_scale": np.float64(scale)}
    total = jax.jit(lambda given: contrastive.crd(**given, **whole, temperature=0.3).sum())
    grads = jax.jit(jax.grad(total))(given)
    for name, grad in grads.items():
        if "scale" in name and not scale:
            assert grad == 0
            continue
        assert np.abs(grad).max() > 1e-3, name
        for at in np.ndindex(grad.shape):
            up, down = ({**given, name: given[name] + e * (np.arange(grad.size) == np.ravel_multi_index(at, grad.shape)
                        ).reshape(grad.shape) if grad.shape else given[name] + e} for e in (1e-6, -1e-6))  # fmt: skip
            np.testing.assert_allclose(grad[at], (total(up) - total(down)) / 2e-6, rtol=1e-5, atol=1e-7)


@jax.jit
def with_gradients(given, scale, temperature):
    def value(both):
        scales = {"student_scale": scale, "teacher_scale": scale}
        return contrastive.crd(**given | both, **scales, temperature=temperature).sum()

    scales = contrastive.crd_scales(**given, temperature=temperature)
    return *jax.value_and_grad(value)({k: given[k] for k in ("student", "teacher")}), scales


@pytest.mark.parametrize("scale", [0.0, 10.0, 1e-30, 1e30])
def test_extremes_are_finite(rng, scale):
    """Temperatures whose scores float32 does not hold, vectors of zeros, all embeddings equal."""
    given = {k: np.float32(x) if x.dtype == np.float64 else x for k, x in case(rng).items()}
    equal = given | {k: np.ones_like(given[k]) / 3**0.5 for k in ("student", "teacher", "student_bank", "teacher_bank")}
    opposite = equal | {"student": -equal["student"]}
    zeros = given | {"student": 0 * given["student"], "teacher_bank": 0 * given["teacher_bank"]}
    for inputs in (given, equal, opposite, zeros):
        for temperature in (0.07, 0.003):
            value, grads, scales = with_gradients(inputs, scale, temperature)
            assert np.isfinite(value) and value >= 0 and all(np.isfinite(g).all() for g in grads.values())
            assert all(0 < x < np.inf for x in scales)


def test_float32_agrees_with_float64(rng):
    """In a realistic relation of sizes, 1000 negatives of 3000 rows, and scores up to e^14."""
    given = case(rng, b=3, n=3000, m=1000, d=16)
    given["teacher_bank"][given["index"]] = given["student"]
    slow = slow_crd(8000.0, 9000.0, **given)
    ours = crd(**{k: jnp.float32(x) if x.dtype == np.float64 else x for k, x in given.items()},
               student_scale=jnp.float32(8000), teacher_scale=jnp.float32(9000))  # fmt: skip
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, slow, rtol=2e-6)


def test_half_precision_is_widened(rng):
    given = {k: jnp.bfloat16(x) if x.dtype == np.float64 else x for k, x in case(rng).items()}
    wide = {k: jnp.float32(x) if x.dtype == jnp.bfloat16 else x for k, x in given.items()}
    ours = crd(**given, student_scale=9.0, teacher_scale=0.0)
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, crd(**wide, student_scale=9.0, teacher_scale=0.0))
    np.testing.assert_array_equal(crd_scales(**given), crd_scales(**wide))


def test_vectors_of_negatives_are_not_gathered(rng):
    given = case(rng, b=2, n=11, m=6, d=5)
    scales = {"student_scale": 1.0, "teacher_scale": 0.0}
    traced = jax.make_jaxpr(jax.grad(lambda s: contrastive.crd(**given | {"student": s}, **scales).sum()))
    text = str(traced(given["student"]))
    assert "f32[2,11]" in text and "[2,7,5]" not in text and "[2,6,5]" not in text


def test_refusals(rng):
    given = case(rng) | {"student_scale": 1.0, "teacher_scale": 1.0}
    for name, wrong in {
        "student": given["student"][0],
        "teacher": given["teacher"][:, :2],
        "student_bank": given["student_bank"][:5],
        "teacher_bank": given["teacher_bank"][:, :2],
        "index": given["index"][:2],
        "negatives": given["negatives"][:, :0],
    }.items():
        with pytest.raises(ValueError, match=r"crd: embeddings \(B, D\) twice, banks \(N, D\) twice"):
            contrastive.crd(**given | {name: wrong})
    with pytest.raises(ValueError, match=r"wanted, got \(4, 3\), \(4, 3\), \(12, 3\), \(12, 3\), \(4,\), \(3, 5\)"):
        contrastive.crd(**given | {"negatives": given["negatives"][:3]})
    with pytest.raises(TypeError):
        contrastive.crd(*given.values())
