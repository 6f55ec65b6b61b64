"""A phase's optimiser and schedule: names and options from the registries, and what no term depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax import InputError, config, engine, recipes
from kd_jax.plan import optimizers
from tests.conftest import tree
from tests.plan.test_build import plan

WRONG = [
    (
        {"student__optim__name": "adam"},
        "config.student.optim.name: unknown name 'adam'; did you mean adamw. known: sgd, adamw, dot, deepkd$",
    ),
    ({"teacher__optim__name": ""}, "config.teacher.optim.name: unknown name ''; known: sgd, adamw, dot, deepkd$"),
    ({"student__schedule__name": "poly"}, "config.student.schedule.name: unknown name 'poly'; .*known: step, cosine$"),
    (
        {"student__optim__name": "adamw", "student__optim__nesterov": True},
        "config.student.optim.nesterov: must be False unless optim.name is sgd, got True$",
    ),
    (
        {"student__optim__name": "adamw", "student__optim__delta": 0.05},
        "config.student.optim.delta: must be 0 unless optim.name is dot or deepkd, got 0.05$",
    ),
    (
        {"student__optim__name": "deepkd", "student__optim__delta": 0.05},
        r"config.student.optim.delta: two gradients: needs a term \*/target and another one, there are ce, kd$",
    ),
    (
        {"student__optim__name": "dot", "student__optim__decay_all": False},
        "config.student.optim.decay_all: must be True unless optim.name is sgd or adamw, got False$",
    ),
    (
        {"student__optim__name": "dot", "student__optim__clip": 1.0},
        "config.student.optim.clip: must be 0 where student.optim.name is dot, which has two gradients, got 1.0$",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[", ".join(c) for c, _ in WRONG])
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        plan(**changes)


def test_a_registry_line_is_all_that_an_optimiser_needs(monkeypatch):
    """It gets those options of the config that it has parameters for."""

    def lion(schedule, *, momentum, weight_decay):
        return optax.lion(schedule, b1=momentum, weight_decay=weight_decay)

    monkeypatch.setitem(engine.OPTIMIZERS, "lion", lion)
    settings = {"name": "lion", "momentum": 0.8, "weight_decay": 0.5}
    tx = plan(**{f"student__optim__{key}": value for key, value in settings.items()})[1].tx
    params = {"student": jnp.full(2, 2.0), "method": {}}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["student"], -0.05 * (1 + 0.5 * 2.0), rtol=1e-6)
    with pytest.raises(InputError, match="known: sgd, adamw, dot, deepkd, lion"):
        plan(student__optim__name="tiger")


def test_dot_with_delta_0_trains_as_sgd():
    first, second = (plan(student__optim__name=name)[1] for name in ("sgd", "dot"))
    assert jax.tree.structure(first.abstract) == jax.tree.structure(second.abstract)
    assert optimizers.task_labels(second.phase, second.distiller) is None
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), first.abstract.params)
    moves = [job.tx.update(params, job.tx.init(params), params)[0] for job in (first, second)]
    jax.tree.map(np.testing.assert_array_equal, *moves)


def test_without_a_task_loss_what_no_term_depends_on_stays():
    """A hint of the first stage leaves all behind it as it is: no decay, no buffer."""
    hint = {"fit": {**recipes.member("fitnet"), "stage": 0}}
    job = plan(student__terms=hint, student__refine_order=())[1]
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), job.abstract.params)
    updates, _ = job.tx.update(jax.tree.map(jnp.zeros_like, params), job.tx.init(params), params)
    moved = {name for name, part in updates["student"].items() if any(map(np.any, jax.tree.leaves(part)))}
    assert moved == {"conv1", "bn1"} and all(map(np.any, jax.tree.leaves(updates["method"])))
    buffers = [leaf for leaf in jax.tree.leaves(job.abstract.opt) if leaf.shape]
    assert len(buffers) == len(jax.tree.leaves(updates["method"])) + 3


def test_dot_takes_the_dependencies_of_its_terms():
    """Behind the hint's stage only the task loss counts: one buffer there, two before, one of the regressor."""
    hint = {"ce": recipes.member("ce"), "fit": {**recipes.member("fitnet"), "stage": 0}}
    settings = {"name": "dot", "delta": 0.05}
    job = plan(
        student__terms=hint, student__refine_order=(), **{f"student__optim__{k}": v for k, v in settings.items()}
    )[1]
    assert optimizers.task_labels(job.phase, job.distiller) == {"ce"}
    sizes = {part: len(jax.tree.leaves(job.abstract.params[part])) for part in ("student", "method")}
    buffers = [leaf for leaf in jax.tree.leaves(job.abstract.opt) if leaf.shape]
    assert len(buffers) == sizes["student"] + 3 + sizes["method"]


def test_epochs_become_steps():
    changes = {"name": "step", "milestones": (2, 3), "warmup_epochs": 1.0}
    phase = config.parse(tree(**{f"student__schedule__{key}": value for key, value in changes.items()})).phases[1]
    rates = [float(optimizers.make_schedule(phase, 20, 5)(jnp.int32(s))) for s in (0, 4, 9, 10, 15)]
    assert rates == pytest.approx([0.01, 0.05, 0.05, 0.005, 0.0005], rel=1e-5)
