"""A search on several devices; tests/distributed/test_parallel.py runs it with forced CPU devices.

python -m tests.distributed.searches N
"""

import sys
from functools import partial

import jax
import numpy as np
import optax

import kd_jax
from kd_jax import methods
from kd_jax.distributed.mesh import Layout
from tests.distributed.devices import BATCH, KEY, STEPS, STUDENT, batches, far
from tests.tiny import in_place, simple_operations


def search(layout):
    """SoKD + FitNet: a step of the policy before every step of the student."""
    refiners = {"dam": methods.dam(weight=1.0, areas=2, channels=8), "dafa": methods.dafa(stages=(2,), rate=0.01)}
    distiller = methods.chain(**refiners, ce=methods.ce(), fitnet=methods.fitnet(weight=1.0))
    parts = {"student": STUDENT, "distiller": distiller, "tx": optax.sgd(0.02, momentum=0.9)}
    context = kd_jax.make_init_context(STUDENT, (STUDENT,), image_shape=(8, 8, 3), batch_size=BATCH)
    shapes = context.view_shapes.teachers[0].stages
    state = layout.put(jax.jit(lambda: kd_jax.init_state(KEY, context=context, **parts))())
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


def main(n):
    """SoKD's policy, searched through the look-ahead, on n devices as on one."""
    with simple_operations():
        alone, together = search(Layout((1,))), search(Layout((n,)))
    for part in ("params", "stats", "policy"):
        assert far(getattr(alone, part), getattr(together, part)) < 1e-4, part
    assert np.std(alone.policy["dafa"]["weight"]) > 0.01  # it has moved
    print("same")


if __name__ == "__main__":
    with in_place():
        main(int(sys.argv[1]))
