"""Agreement: its metrics, by hand."""

import jax.numpy as jnp
import numpy as np

from kd_jax import tasks
from kd_jax.tasks import agreement as m


def test_metrics():
    teacher, student = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]])), jnp.zeros((2, 3)).at[1, 0].set(1.0)
    metrics = m.test_metrics(student, teacher, {})
    np.testing.assert_array_equal(metrics["agreement"], [1, 1])
    np.testing.assert_array_equal(m.test_metrics(-student, teacher, {})["agreement"], [1, 0])
    divergence = 0.5 * np.log(0.5 * 3) + 0.5 * np.log(0.25 * 3)
    np.testing.assert_allclose(metrics["loss"][0], divergence, rtol=1e-6)
    np.testing.assert_allclose(m.test_metrics(teacher, teacher, {})["loss"], 0, atol=1e-7)


def test_without_a_teacher_there_is_nothing_to_measure():
    assert m.test_metrics(jnp.zeros((2, 3)), None, {}) == m.train_metrics(jnp.zeros((2, 3)), {}) == {}


def test_no_label_is_in_the_batch():
    assert m.batch_shapes(4, (8, 8, 3)).keys() == {"image", "index", "mask"}


def test_the_headline_of_a_row():
    assert tasks.headline_in({"top1": 0.5, "agreement": 0.7}) == 0.5
    assert tasks.headline_in({"agreement": 0.7}) == 0.7 and tasks.headline_in({"epoch": 1.0}) is None
