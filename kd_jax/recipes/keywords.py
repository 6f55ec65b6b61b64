"""What a method's factory takes, read from its signature: the keywords of its members in a configuration."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from kd_jax.typing import InputError

PLAIN = (bool, int, float, str)


class Keyword(NamedTuple):
    """A keyword of a factory. kind: bool, int, float, str, or tuple[x, ...] of one of these."""

    kind: Any
    takes_none: bool
    default: Any

    @property
    def type(self) -> Any:
        """What the value of a configuration is checked against."""
        return self.kind | None if self.takes_none else self.kind


def keywords(factory: Callable) -> dict[str, Keyword]:
    """name -> Keyword of everything that a factory takes.

    A configuration holds bool, int, float, str, None and flat tuples of these, so a factory takes nothing else. A
    keyword may take a function beside one of these, as a weight takes a schedule; configurations never give one.

    Raises:
      InputError: a keyword without a type or a default, or of another type; the message names the factory.
    """
    hints = typing.get_type_hints(factory)
    return {
        name: _keyword(f"{factory.__name__}: keyword {name}", parameter, hints.get(name))
        for name, parameter in inspect.signature(factory).parameters.items()
    }


def _keyword(where: str, parameter: inspect.Parameter, hint: Any) -> Keyword:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
        raise InputError(f"{where}: must be one keyword with a name of its own")
    if parameter.default is parameter.empty:
        raise InputError(f"{where}: has no default")
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    options = [o for o in (typing.get_args(hint) if union else (hint,)) if not _is_function(o)]
    kinds = [option for option in options if option is not type(None)]
    if len(kinds) != 1 or not (kinds[0] in PLAIN or _is_flat_tuple(kinds[0])):
        raise InputError(
            f"{where}: has {'no type' if hint is None else f'the type {_spelled(hint)}'}; accepted: bool, int, float, "
            "str, or tuple[x, ...] of one of these; or one of these | None"
        )
    return Keyword(kinds[0], type(None) in options, parameter.default)


def _is_function(kind: Any) -> bool:
    return Callable in (kind, typing.get_origin(kind))


def _is_flat_tuple(kind: Any) -> bool:
    element, *rest = typing.get_args(kind) or (None,)
    return typing.get_origin(kind) is tuple and element in PLAIN and rest == [...]


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
