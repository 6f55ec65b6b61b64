"""CRD over several steps: against a slow reference, and in two parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import kd_jax
from kd_jax.engine.metrics import read as read_metrics
from kd_jax.layers import negatives
from kd_jax.methods.base import chain, fold
from kd_jax.methods.crd import crd
from kd_jax.methods.terms import ce
from kd_jax.typing import Outputs
from tests.methods.test_crd import KEY, LABELS, SMALL, embedded, slow, unit

ORDER = [[0, 3, 5], [8, 1, 2], [3, 0, 11], [0, 3, 5], [4, 10, 3], [2, 0, 9]]  # examples of six steps, some again


class Flat(nn.Module):
    """A network of two linear layers."""

    width: int

    @nn.compact
    def __call__(self, x, train=False, after=-1):
        pooled = nn.Dense(self.width, name="body")(x.reshape(len(x), -1))
        return Outputs((), None, pooled, nn.Dense(3, name="fc")(pooled))


def stepping(distiller):
    """init and a jitted, donating step of a tiny student, and its teacher's outputs and batches by step."""
    rng = np.random.default_rng(3)
    student, teacher = Flat(6), Flat(5)
    images = jnp.float32(rng.normal(0, 1, (len(LABELS), 2, 2, 1)))
    context = kd_jax.make_init_context(
        student, (teacher,), image_shape=(2, 2, 1), batch_size=3, num_examples=len(LABELS), labels=LABELS
    )
    parts = {"student": student, "distiller": distiller, "tx": optax.sgd(0.1)}
    taught = Outputs((), None, jnp.float32(rng.normal(0, 1, (len(LABELS), 5))), jnp.zeros((len(LABELS), 3)))

    def read(i):
        index = jnp.array(ORDER[i], jnp.int32)
        pooled, logits = taught.pooled[index], taught.logits[index]
        batch = {"image": images[index], "label": jnp.asarray(LABELS)[index], "index": index}
        return Outputs((), None, pooled, logits), batch

    init = jax.jit(partial(kd_jax.init_state, context=context, **parts))
    return init(KEY), jax.jit(partial(kd_jax.train_step, **parts), donate_argnums=0), read


def test_steps_against_a_slow_reference():
    """Rows written, all others kept, constants of the first batch, negatives of every step, as parameters move."""
    state, step, read = stepping(chain(ce=ce(), crd=crd(**SMALL)))
    banks, scale = {k: np.float64(x) for k, x in state.stats["method"]["crd"]["bank"].items()}, {}
    table, heads, firsts = negatives.table(LABELS, 3), [], []
    for i, index in enumerate(ORDER):
        params, (teacher, batch) = jax.device_get(state.params), read(i)
        body = params["student"]["body"]
        pooled = np.float64(batch["image"]).reshape(3, 4) @ body["kernel"] + body["bias"]
        crd_params = params["method"]["crd"]
        said = {
            "student": embedded(crd_params, "student", pooled),
            "teacher": embedded(crd_params, "teacher", teacher.pooled),
        }
        key = fold(fold(jax.random.fold_in(KEY, i), "method"), "crd")
        drawn = np.asarray(negatives.draw(table, key, labels=batch["label"], index=batch["index"], count=5))
        expected = 0.8 * slow(said, banks, scale, np.array(index), drawn, 0.2).mean()
        for seat, bank in banks.items():
            bank[index] = unit(0.3 * bank[index] + 0.7 * said[seat])
        heads.append(crd_params["student"]["kernel"])
        firsts.append(dict(scale))
        state, metrics = step(state, teacher, batch, KEY)
        np.testing.assert_allclose(read_metrics(metrics)["terms/crd"], expected, rtol=1e-4)
        now = state.stats["method"]["crd"]
        for seat, bank in banks.items():
            np.testing.assert_allclose(now["bank"][seat], bank, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(now["scale"][seat], scale[seat], rtol=1e-5)
            untouched = np.setdiff1d(np.arange(len(LABELS)), np.concatenate(ORDER[: i + 1]))
            assert (np.abs(now["bank"][seat][untouched]) < (3 / 4) ** 0.5).all()
        jax.tree.map(np.testing.assert_array_equal, now["negatives"], table)
    assert firsts[0] == firsts[-1] and not np.allclose(heads[0], heads[-1], atol=1e-3)
    assert set(np.flatnonzero(np.isclose((now["bank"]["student"] ** 2).sum(1), 1))) == set(np.concatenate(ORDER))


def test_a_run_in_two_parts_is_the_run():
    def go(state, steps):
        for i in steps:
            state, _ = step(state, *read(i), KEY)
        return jax.device_get(state)

    state, step, read = stepping(crd(**SMALL))
    half = go(jax.tree.map(jnp.copy, state), range(3))
    whole, again = go(state, range(6)), go(jax.tree.map(jnp.asarray, half), range(3, 6))
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert not np.array_equal(half.stats["method"]["bank"]["student"], whole.stats["method"]["bank"]["student"])
