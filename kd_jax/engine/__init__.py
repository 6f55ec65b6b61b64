"""The pure engine: state, optimisers, metrics and the train, teacher and evaluation steps."""

from kd_jax.engine.bilevel import policy_step
from kd_jax.engine.deepkd import deepkd
from kd_jax.engine.dot import dot
from kd_jax.engine.optim import adamw, cosine_schedule, sgd, step_schedule
from kd_jax.engine.state import TrainState, init_state, make_init_context
from kd_jax.engine.step import eval_step, refine, teacher_outputs, train_step, visualizations

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "TrainState",
    "eval_step",
    "init_state",
    "make_init_context",
    "policy_step",
    "refine",
    "teacher_outputs",
    "train_step",
    "visualizations",
]

# (schedule, **options of the config's `optim`) -> optax.GradientTransformation; one with a parameter `dependencies`
# takes a pair of gradients where `delta` is not 0: the task's, or that of the terms in its `apart`, and the others'
OPTIMIZERS = {"sgd": sgd, "adamw": adamw, "dot": dot, "deepkd": deepkd}
# (learning rate, **options of the config's `schedule` in steps) -> Schedule
SCHEDULES = {"step": step_schedule, "cosine": cosine_schedule}
