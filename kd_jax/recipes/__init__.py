"""The words that config files are written in: members, phases, recipes, and the argument of get_config.

A config file is plain Python. It imports this package and other config files, nothing else of kd_jax. Its
`get_config(arg)` returns a ConfigDict that holds every key with its default, so that a flag can change any of them.
"""

from kd_jax.recipes.arguments import Argument, argument, is_transformer, large, words
from kd_jax.recipes.keywords import Keyword, keywords
from kd_jax.recipes.members import Config, completed, factory, member, signature
from kd_jax.recipes.parts import Part, distillation
from kd_jax.recipes.phases import before, phase, recipe
from kd_jax.typing import InputError, suggest

__all__ = [
    "Argument", "Config", "InputError", "Keyword", "Part", "argument", "before", "completed", "distillation", "factory",
    "is_transformer", "keywords", "large", "member", "phase", "recipe", "signature", "suggest", "words",
]  # fmt: skip
