"""From a ConfigDict to frozen dataclasses, once. Every error names its key, the value and what is accepted."""

from kd_jax.config.parse import parse, typed
from kd_jax.config.records import (
    Checkpoint,
    Data,
    Eval,
    Init,
    Log,
    Member,
    Optim,
    Parallel,
    Phase,
    Recipe,
    Schedule,
    Strong,
    at,
)

__all__ = [
    "Checkpoint", "Data", "Eval", "Init", "Log", "Member", "Optim", "Parallel", "Phase", "Recipe", "Schedule",
    "Strong", "at", "parse", "typed",
]  # fmt: skip
