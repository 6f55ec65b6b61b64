"""Checks that need several devices; tests/test_parallel.py runs it with forced CPU devices.

python tests/devices.py N
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kd_jax
from kd_jax import methods, models
from kd_jax.parallel import Layout
from kd_jax.typing import Outputs

BATCH, STEPS = 16, 10
STUDENT = models.create("resnet8", 10, widths=(4, 4, 8, 16))
DISTILLER = methods.chain(skd=methods.skd(bound=0.5), ce=methods.ce(weight=0.1), kd=methods.kd(weight=0.9))
KEY = jax.random.key(0)


def batches():
    """Inputs and teacher logits of every step."""
    for i in range(STEPS):
        k = jax.random.split(jax.random.fold_in(KEY, i), 3)
        batch = {"image": jax.random.normal(k[0], (BATCH, 8, 8, 3)), "label": jax.random.randint(k[1], (BATCH,), 0, 10)}
        yield batch, Outputs((), None, None, 3 * jax.random.normal(k[2], (BATCH, 10)))


def start(tx):
    facts = kd_jax.make_facts(STUDENT, (STUDENT,), image_shape=(8, 8, 3), batch_size=BATCH)
    return kd_jax.init_state(KEY, student=STUDENT, distiller=DISTILLER, tx=tx, facts=facts)


def step_of(layout, tx):
    def step(state, taught, batch, key):
        parts = {"student": STUDENT, "distiller": DISTILLER, "tx": tx, "axis_name": layout.axis_name}
        return kd_jax.train_step(state, taught, batch, key, **parts)

    return layout.jit_step(step, ins="rbbr", outs="rr")


def run(layout, tx, steps=STEPS):
    state, step, losses = layout.put(start(tx)), step_of(layout, tx), []
    for _, (batch, taught) in zip(range(steps), batches(), strict=False):
        state, metrics = step(state, taught, batch, KEY)
        losses.append(float(metrics["loss"].total / metrics["loss"].count))
    return jax.tree.map(np.asarray, state), losses


def search(layout):
    """SoKD + FitNet: a step of the policy before every step of the student."""
    refiners = {"dam": methods.dam(weight=1.0, areas=2, channels=8), "dafa": methods.dafa(stages="2", rate=0.01)}
    distiller = methods.chain(**refiners, ce=methods.ce(), fitnet=methods.fitnet(weight=1.0))
    parts = {"student": STUDENT, "distiller": distiller, "tx": optax.sgd(0.02, momentum=0.9)}
    facts = kd_jax.make_facts(STUDENT, (STUDENT,), image_shape=(8, 8, 3), batch_size=BATCH)
    shapes = facts.view_shapes.teachers[0].stages
    state = layout.put(jax.jit(lambda: kd_jax.init_state(KEY, facts=facts, **parts))())
    parts["axis_name"] = layout.axis_name
    policy_step = layout.jit_step(partial(kd_jax.engine.policy_step, **parts), ins="rbbr", outs="rr")
    train_step = layout.jit_step(partial(kd_jax.train_step, **parts), ins="rbbr", outs="rr")
    taught = []
    for i, (batch, logits) in enumerate(batches()):
        keys = jax.random.split(jax.random.fold_in(KEY, STEPS + i), len(shapes))
        stages = tuple(jax.random.normal(k, s.shape) for k, s in zip(keys, shapes, strict=True))
        taught.append(((logits._replace(stages=stages),), batch))
    for inner, outer in zip(taught, taught[1:] + taught[:1], strict=True):
        state, _ = policy_step(state, inner, outer, KEY)
        state, _ = train_step(state, *inner, KEY)
    return jax.tree.map(np.asarray, state)


def far(a, b):
    """Relative distance of two trees."""
    flat = [np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)]) for t in (a, b)]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0])


def main(n):
    tx = optax.sgd(0.02, momentum=0.9)
    one, losses = run(Layout((1,)), tx)
    assert losses[-1] != losses[0]
    # global scope: n devices are one
    many, theirs = run(Layout((n,)), tx)
    assert far(one.params, many.params) < 1e-4 and far(one.stats, many.stats) < 1e-4
    np.testing.assert_allclose(losses, theirs, rtol=1e-4)
    # SoKD's policy, searched through the look-ahead, too
    alone, together = search(Layout((1,))), search(Layout((n,)))
    for part in ("params", "stats", "policy"):
        assert far(getattr(alone, part), getattr(together, part)) < 1e-4, part
    assert np.std(alone.policy["dafa"]["weight"]) > 0.01  # it has moved
    # on one device the two scopes are the same
    alone, theirs = run(Layout((1,), "device"), tx)
    assert far(one.params, alone.params) < 1e-5
    np.testing.assert_allclose(losses, theirs, rtol=1e-5)
    # device scope: the average of what each shard would do by itself
    plain = optax.sgd(1.0)  # so that a step's change is the gradient
    mapped, _ = run(Layout((n,), "device"), plain, steps=1)
    (batch, taught), first = next(batches()), start(plain)
    shards = []
    for i in range(n):
        cut = lambda x, i=i: x[i * BATCH // n : (i + 1) * BATCH // n]  # noqa: E731
        part = {k: cut(v) for k, v in batch.items()}
        own = taught._replace(logits=cut(taught.logits))
        shards.append(step_of(Layout((1,)), plain)(first, own, part, KEY)[0])
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *[(s.params, s.stats) for s in shards])
    assert far(mean, (mapped.params, mapped.stats)) < 1e-5
    if n > 1:  # and that is another step than the global one: BatchNorm and attention see less
        assert far(run(Layout((n,)), plain, steps=1)[0].params, mapped.params) > 1e-4
    assert jnp.all(mapped.step == 1)
    print("same")


if __name__ == "__main__":
    main(int(sys.argv[1]))
