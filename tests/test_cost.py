"""What a step costs, by XLA's own count: the teacher once, the student three times, and next to nothing else."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import kd_jax
from kd_jax import methods, models
from kd_jax.engine import optim
from kd_jax.engine.state import abstract_state
from kd_jax.engine.step import only

BATCH, SHAPE = 64, (32, 32, 3)
CHAINS = {
    "kd": {"kd": methods.kd(weight=0.9)},
    "skd": {"skd": methods.skd(), "kd": methods.kd(weight=0.9)},
    "skd_dkd": {"skd": methods.skd(), "dkd": methods.dkd()},
}


def flops(function, *args):
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


@pytest.fixture(scope="module")
def parts():
    teacher, student = models.create("resnet32x4", 100), models.create("resnet8x4", 100)
    (tv, _), (sv, _) = (models.shapes(m, SHAPE) for m in (teacher, student))
    image = jax.ShapeDtypeStruct((BATCH, *SHAPE), jnp.float32)
    forward = [
        flops(lambda v, x, m=m: models.apply(m, v, x)[0].logits, v, image) for m, v in ((teacher, tv), (student, sv))
    ]
    return teacher, student, tv, image, forward


@pytest.mark.parametrize("name", CHAINS)
def test_flops_of_a_step(parts, name):
    teacher, student, tv, image, (teacher_forward, student_forward) = parts
    distiller = methods.chain(ce=methods.ce(weight=0.1), **CHAINS[name])
    tx = optim.grouped(optim.sgd, optim.step_schedule(0.05, milestones=(100,), gamma=0.1), distiller.rates)
    facts = kd_jax.make_facts(student, (teacher,), image_shape=SHAPE, batch_size=BATCH)
    state = abstract_state(student=student, distiller=distiller, tx=tx, facts=facts)
    teach = lambda v, x: only(kd_jax.teacher_outputs(teacher, v, x), distiller.needs)  # noqa: E731
    outputs = jax.eval_shape(teach, tv, image)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32)}
    step = partial(kd_jax.train_step, student=student, distiller=distiller, tx=tx)
    spent = flops(teach, tv, image) + flops(step, state, outputs, batch, jax.random.key(0))
    parts_alone = teacher_forward + 3 * student_forward
    assert 0.9 * parts_alone < spent <= 1.02 * parts_alone
