"""Classification: its metrics, by hand."""

import jax.numpy as jnp
import numpy as np

from kd_jax.tasks import classification as m


def test_top_k():
    logits = jnp.array([[0.1, 0.9, 0.5], [2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [jnp.nan, 0.0, 0.0]])
    labels = jnp.array([2, 0, 0, 1])
    np.testing.assert_array_equal(m.top_k(logits, labels, 1), [0, 1, 0, 0])  # a constant or NaN row does not score
    np.testing.assert_array_equal(m.top_k(logits[:2], labels[:2], 2), [1, 1])
    np.testing.assert_array_equal(m.top_k(logits, labels, 5), 1)  # fewer classes than 5


def test_agreement():
    a, b = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([[3.0, 5.0], [0.0, 0.1]])
    np.testing.assert_array_equal(m.agreement(a, b), [1, 0])
