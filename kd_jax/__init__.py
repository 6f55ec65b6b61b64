"""kd_jax: student-friendly knowledge distillation in JAX."""

from kd_jax import losses, methods, models
from kd_jax.engine import TrainState, eval_step, init_state, make_init_context, teacher_outputs, train_step
from kd_jax.typing import InitContext, InputError, Match, Outputs, Variables, View

__version__ = "0.1.0"

make_facts, Facts = make_init_context, InitContext  # what they were called at first


def _on_first_call(name: str):
    """A function of kd_jax.interop.state_dict, imported when it is first called: it touches files."""

    def call(*args, **kwargs):
        from kd_jax.interop import state_dict

        return getattr(state_dict, name)(*args, **kwargs)

    call.__name__, call.__doc__ = name, f"See `kd_jax.interop.state_dict.{name}`."
    return call


models.load_torch, models.save_torch = _on_first_call("load_torch"), _on_first_call("save_torch")

__all__ = [
    "Facts",
    "InitContext",
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
    "make_init_context",
    "methods",
    "models",
    "teacher_outputs",
    "train_step",
]
