"""From a ConfigDict to frozen dataclasses, once. Every error names its key, the value and what is accepted."""

from kd_jax.config.defaults import completed, default_fields, phase_template, template, typed_field
from kd_jax.config.keys import config_key, error_in
from kd_jax.config.overrides import override
from kd_jax.config.parse import parse
from kd_jax.config.phase_records import Init, Member, Optim, Phase, Schedule
from kd_jax.config.records import Checkpoint, Data, Erase, Eval, Log, Mix, Parallel, Recipe, Strong
from kd_jax.config.values import as_tuple, optional, typed

__all__ = [
    "Checkpoint", "Data", "Erase", "Eval", "Init", "Log", "Member", "Mix", "Optim", "Parallel", "Phase", "Recipe",
    "Schedule", "Strong", "as_tuple", "completed", "config_key", "default_fields", "error_in", "optional",
    "override", "parse", "phase_template", "template", "typed", "typed_field",
]  # fmt: skip
