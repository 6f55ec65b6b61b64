"""Refiners and terms as sub-configurations, every keyword of their factory with its default."""

import inspect
import types
import typing

from ml_collections import config_dict

from kd_jax import methods
from kd_jax.typing import InputError, suggest

Config = config_dict.ConfigDict


def factory(kind: str):
    """The factory of a refiner or a criterion.

    Raises:
      InputError: an unknown name; the message lists the known ones.
    """
    known = {**methods.REFINERS, **methods.CRITERIA}
    if kind not in known:
        raise InputError(f"unknown method {kind!r}; {suggest(kind, known)}")
    return known[kind]


def signature(kind: str) -> dict[str, tuple[type, bool, object]]:
    """keyword -> (type, whether None is accepted, default) of a method's factory."""
    made = {}
    make = factory(kind)
    hints = typing.get_type_hints(make)
    for name, parameter in inspect.signature(make).parameters.items():
        hint = hints[name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType | typing._UnionGenericAlias) else (hint,)
        plain = next(o for o in options if o in (bool, int, float, str))
        made[name] = (plain, type(None) in options, parameter.default)
    return made


def member(kind: str, **changed) -> Config:
    """A refiner or a term with every keyword of its factory, those in `changed` changed.

    Terms also have `warmup_epochs`: the weight rises to its value over that many epochs; and `teacher`: the number
    of the one of several teachers that the term reads, in place of their average (logits) or the first (features).

    Raises:
      InputError: a keyword that the factory has not.
    """
    known = signature(kind)
    made = Config({"kind": kind})
    if kind in methods.CRITERIA:
        made.warmup_epochs = float(changed.pop("warmup_epochs", 0.0))
        made.teacher = config_dict.FieldReference(changed.pop("teacher", None), field_type=int)
    for name in changed:
        if name not in known:
            raise InputError(f"{kind} has no keyword {name!r}; known: {', '.join(known)}")
    for name, (kind_of, optional, default) in known.items():
        value = changed.get(name, default)
        value = float(value) if kind_of is float and value is not None else value
        made[name] = config_dict.FieldReference(value, field_type=kind_of) if optional else value
    return made
