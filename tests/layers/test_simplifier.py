"""The attention block against slow loops, for both readings of what the tokens are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers import simplifier


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def attend(x, p):
    """One attention over tokens x (N, F), a loop over queries."""
    q, k, v = (x @ p[n] for n in ("query", "key", "value"))
    rows = [softmax(np.array([qi @ kj for kj in k]) / np.sqrt(q.shape[1])) @ v for qi in q]
    return np.stack(rows) @ p["output"]


def initial(tokens, width=None, zero_output=False):
    params = simplifier.init(jax.random.key(0), num_classes=6, tokens=tokens, width=width, zero_output=zero_output)
    return params, {k: np.asarray(v, np.float64) for k, v in params.items()}


@pytest.mark.parametrize("width", [None, 3])
def test_batch_tokens(rng, x64, width):
    params, p = initial("batch", width)
    u = rng.normal(size=(5, 6))
    np.testing.assert_allclose(
        simplifier.apply(params, jnp.asarray(u), tokens="batch"), attend(u, p), rtol=1e-5, atol=1e-6
    )


def test_class_tokens(rng, x64):
    params, p = initial("classes")
    u = rng.normal(size=(5, 6))
    slow = np.stack([attend(row[:, None] * p["direction"] + p["embedding"], p)[:, 0] for row in u])
    np.testing.assert_allclose(simplifier.apply(params, jnp.asarray(u), tokens="classes"), slow, rtol=1e-5, atol=1e-6)


def test_pool(rng, x64):
    params = simplifier.init_pool(jax.random.key(0), num_classes=6, width=5)
    u = rng.normal(size=(4, 6))
    np.testing.assert_array_equal(simplifier.pool(params, jnp.asarray(u)), np.full((4, 1), 4.0))
    params["output"] = jnp.asarray(rng.normal(size=(5, 1)))
    p = {k: np.asarray(v, np.float64) for k, v in params.items()}
    slow = []
    for row in u:
        x = row[:, None] * p["direction"] + p["embedding"]
        share = softmax(np.array([k @ p["query"] for k in x @ p["key"]]) / np.sqrt(5))
        slow.append(share @ (x @ p["value"]) @ p["output"] + p["bias"])
    np.testing.assert_allclose(simplifier.pool(params, jnp.asarray(u)), slow, rtol=1e-5)


@pytest.mark.parametrize("tokens", simplifier.TOKENS)
def test_zero_output_is_exactly_zero(rng, tokens):
    params, _ = initial(tokens, zero_output=True)
    assert (np.asarray(simplifier.apply(params, jnp.asarray(rng.normal(size=(5, 6))), tokens=tokens)) == 0).all()


def test_what_mixes_with_what(rng):
    """Batch tokens mix examples; class tokens leave each example to itself."""
    u = jnp.asarray(rng.normal(size=(5, 6)))
    other = u.at[0].add(1.0)
    for tokens, mixes in (("batch", True), ("classes", False)):
        params, _ = initial(tokens)
        a, b = (simplifier.apply(params, x, tokens=tokens) for x in (u, other))
        assert (np.abs(np.asarray(a - b))[1:].max() > 1e-6) == mixes


def test_width_defaults():
    assert initial("batch")[0]["query"].shape == (6, 6)
    assert initial("classes")[0]["query"].shape == (16, 16)
    big = jax.eval_shape(
        lambda k: simplifier.init(k, num_classes=1000, tokens="batch", width=None, zero_output=True), jax.random.key(0)
    )
    assert big["query"].shape == (1000, 128) and big["output"].shape == (128, 1000)


def test_standardize_rows(rng):
    u = rng.normal(2, 5, (4, 50))
    n = np.asarray(simplifier.standardize_rows(jnp.asarray(u)))
    np.testing.assert_allclose(n, (u - u.mean(1, keepdims=True)) / u.std(1, keepdims=True), rtol=1e-4, atol=1e-5)
    flat = jnp.full((2, 5), 3.0)
    assert (simplifier.standardize_rows(flat) == 0).all()
    assert np.isfinite(jax.grad(lambda x: simplifier.standardize_rows(x).sum())(flat)).all()
