"""What a step costs, by XLA's own count: the teacher once, the student three times, and next to nothing else."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import kd_jax
from kd_jax import methods, models
from kd_jax.engine import optim
from kd_jax.engine.state import abstract_state
from kd_jax.engine.step import select_outputs
from kd_jax.layers.areas import AreaHeads
from kd_jax.layers.regressor import Regressor

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
    logits = lambda m, v, x: models.apply(m, v, x)[0].logits  # noqa: E731
    forward = flops(partial(logits, teacher), tv, image)
    # of the program that gradients are taken of: on a CPU a frozen network has another one
    trained = flops(lambda v, x: jax.vjp(lambda v: logits(student, v, x), v)[0], sv, image)
    return teacher, student, tv, image, (forward, trained)


def spent_by(distiller, parts):
    """Flops of the teacher's program and the training step under a distiller."""
    teacher, student, tv, image, _ = parts
    tx = optim.grouped(optim.sgd, optim.step_schedule(0.05, milestones=(100,), gamma=0.1), distiller.lr_multipliers)
    context = kd_jax.make_init_context(student, (teacher,), image_shape=SHAPE, batch_size=BATCH)
    state = abstract_state(student=student, distiller=distiller, tx=tx, context=context)
    teach = lambda v, x: select_outputs(kd_jax.teacher_outputs(teacher, v, x), distiller.needs)  # noqa: E731
    outputs = jax.eval_shape(teach, tv, image)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32)}
    step = partial(kd_jax.train_step, student=student, distiller=distiller, tx=tx)
    return flops(teach, tv, image) + flops(step, state, outputs, batch, jax.random.key(0))


@pytest.mark.parametrize("name", CHAINS)
def test_flops_of_a_step(parts, name):
    *_, (teacher_forward, student_forward) = parts
    spent = spent_by(methods.chain(ce=methods.ce(weight=0.1), **CHAINS[name]), parts)
    parts_alone = teacher_forward + 3 * student_forward
    assert 0.9 * parts_alone < spent <= 1.02 * parts_alone


def test_flops_of_sokd_outside_its_search(parts):
    """Networks, the two regressors and the heads, each lowered alone; a policy that is not searched costs no more."""
    *_, (teacher_forward, student_forward) = parts
    refiners = {"dam": methods.dam(), "dafa": methods.dafa()}
    chain = methods.chain(**refiners, ce=methods.ce(), fit=methods.fitnet(depth=3))
    stage = jax.ShapeDtypeStruct((BATCH, 16, 16, 128), jnp.float32)
    regressor, heads = Regressor((16, 16, 128), 3), AreaHeads()
    variables = [jax.eval_shape(m.init, jax.random.key(0), stage) for m in (regressor, regressor, heads)]

    def modules(variables, student, teacher):
        one, two = (regressor.apply(v, student, True, mutable=["batch_stats"])[0] for v in variables[:2])
        areas = (heads.apply(variables[2], x) for x in (two, teacher))
        return one.sum() + sum(jax.tree.leaves(jax.tree.map(jnp.sum, tuple(areas))))

    alone = teacher_forward + 3 * student_forward
    alone += flops(jax.value_and_grad(modules, argnums=(0, 1)), variables, stage, stage)
    spent = spent_by(chain, parts)
    assert 0.9 * alone < spent <= 1.05 * alone
