"""The pure engine: state, optimisers, metrics and the train, teacher and evaluation steps."""

from kd_jax.engine.bilevel import policy_step
from kd_jax.engine.state import TrainState, init_state, make_init_context
from kd_jax.engine.step import eval_step, teacher_outputs, train_step, visualizations

__all__ = [
    "TrainState",
    "eval_step",
    "init_state",
    "make_init_context",
    "policy_step",
    "teacher_outputs",
    "train_step",
    "visualizations",
]
