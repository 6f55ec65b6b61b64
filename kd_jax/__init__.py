"""kd_jax: student-friendly knowledge distillation in JAX."""

from kd_jax import losses, methods, models
from kd_jax.engine import TrainState, eval_step, init_state, make_facts, teacher_outputs, train_step
from kd_jax.typing import Facts, InputError, Match, Outputs, Variables, View

__version__ = "0.1.0"

__all__ = [
    "Facts",
    "InputError",
    "Match",
    "Outputs",
    "TrainState",
    "Variables",
    "View",
    "eval_step",
    "init_state",
    "losses",
    "make_facts",
    "methods",
    "models",
    "teacher_outputs",
    "train_step",
]
