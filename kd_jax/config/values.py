"""The types that a value of a configuration may have."""

import ast
import types
import typing
from typing import Any

from kd_jax.config.keys import require


def optional(kind: Any) -> tuple[Any, bool]:
    """`x | None` as (x, True), any other type as (type, False)."""
    if not isinstance(kind, types.UnionType):
        return kind, False
    (plain,) = (option for option in typing.get_args(kind) if option is not type(None))
    return plain, True


def typed(value: Any, kind: Any, key: str) -> Any:
    """A value as one of the types that a configuration has.

    Args:
      value: as the user gave it. An integer is a float too; a tuple may be a list, as JSON has it, or a string, see
        `as_tuple`.
      kind: bool, int, float, str, tuple[x, ...] or dict[str, x]; or one of these | None.
      key: its dotted name, for the error.

    Raises:
      InputError: another type.
    """
    kind, takes_none = optional(kind)
    if value is None and takes_none:
        return None
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        elements = as_tuple(value, element) if isinstance(value, str) else value
        require(isinstance(elements, list | tuple), key, value, f"a tuple like (1, 2), of {element.__name__}")
        return tuple(typed(v, element, key) for v in elements)
    if typing.get_origin(kind) is dict:
        require(isinstance(value, dict), key, value, "a sub-configuration")
        return {name: typed(v, typing.get_args(kind)[1], f"{key}.{name}") for name, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), key, value, kind.__name__)
    return value


def as_tuple(text: str, kind: type | None = None) -> tuple | None:
    """The tuple that a text spells, None where it spells none.

    "(1, 2)" and "[1, 2]" as in Python; "1,2" without brackets, as runs had it before there were tuples; "1" and "(1)"
    for one element; "" and "()" for none. Without brackets, strings need no quotes: "1:1,2:2".

    Args:
      text: as the user wrote it.
      kind: of the elements; None takes each as it looks, as a string where it looks like nothing else.
    """
    text = text.strip()
    if text.startswith(("(", "[")):
        value = _literal(text)
        if isinstance(value, list | tuple):
            return tuple(value)
        return None if value is text else (value,)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(part.strip("'\"") if kind is str else _literal(part) for part in parts)


def _literal(text: str) -> Any:
    """The value of a Python literal; the text itself where it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
