"""--config.KEY=VALUE of a command line: read as the type of what it changes, and applied in order."""

import re
from typing import Any

from ml_collections import ConfigDict

from kd_jax.config.values import as_tuple
from kd_jax.typing import InputError, suggest

OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
BOOLS = {"true": True, "t": True, "1": True, "yes": True, "y": True} | {
    "false": False, "f": False, "0": False, "no": False, "n": False,
}  # fmt: skip


def override(config: ConfigDict, arguments: list[str]) -> list[str]:
    """Change a configuration by what a command line says of its keys; the last word on a key counts.

    --config.KEY=VALUE and --config.KEY VALUE set a key, --config.KEY and --noconfig.KEY one that is true or false; a
    KEY[I] is an element of a tuple. A string is taken as it stands, but None is no string; a tuple is spelled as
    `as_tuple` says.

    Args:
      config: changed in place; a key that takes no None is refused where the configuration is parsed.
      arguments: of the command line.

    Returns:
      The other arguments.

    Raises:
      InputError: an unknown key, or a value of another type.
    """
    others, rest, kinds = [], list(arguments), {}
    while rest:
        argument = rest.pop(0)
        match = OVERRIDE.fullmatch(argument)
        if argument == "--":
            return [*others, argument, *rest]
        if not match:
            others.append(argument)
            continue
        negated, key, text = match.groups()
        section, name, index = _find(config, key)
        current = section.get_type(name) if index is None else type(section[name][index])
        kind = kinds.setdefault(key, current)  # the first time, for a None in between would hide it
        if negated and (kind is not bool or text is not None):
            raise InputError(f"{argument}: only a key that is true or false is spelled so, and without a value")
        if text is None and kind is bool:
            text = "false" if negated else "true"
        elif text is None:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"--config.{key}: needs a value, --config.{key}=VALUE")
            text = rest.pop(0)
        _set(section, name, index, _value(text, kind, key))
    return others


def _find(config: ConfigDict, key: str) -> tuple[ConfigDict, str, int | None]:
    """The section that holds a dotted key, the key's name in it, and which element of a tuple is meant."""
    *sections, last = key.split(".")
    name, _, index = last.partition("[")
    path = "config"
    for section in (*sections, name):
        keys = list(config) if isinstance(config, ConfigDict) else []
        if section not in keys:
            accepted = suggest(section, keys) if keys else "known: none, it is a value"
            raise InputError(f"{path}.{section}: unknown key; {accepted}")
        parent, config, path = config, config[section], f"{path}.{section}"
    if not index:
        return parent, name, None
    number = index.removesuffix("]")
    if not isinstance(config, tuple | list) or not number.isdigit() or int(number) >= len(config):
        raise InputError(f"--config.{key}: no such element; {path} is {config!r}")
    return parent, name, int(number)


def _value(text: str, kind: type, key: str) -> Any:
    """A text as a value of a type."""
    if text == "None":
        return None
    if kind is bool:
        value = BOOLS.get(text.lower())
    elif kind in (int, float):
        value = _number(text, kind)
    elif kind in (tuple, list):
        elements = as_tuple(text)
        value = elements if elements is None else kind(elements)
    elif kind is type(None):  # of a config file that says None and no type
        (value,) = as_tuple(f"({text},)") or (text,)
    else:
        value = None if issubclass(kind, ConfigDict) else text
    if value is None:
        accepted = {bool: "true or false", tuple: "a tuple like (1, 2) or 1,2", list: "a list like [1, 2] or 1,2"}
        words = "one of its keys, as --config.KEY.NAME=VALUE" if issubclass(kind, ConfigDict) else kind.__name__
        raise InputError(f"--config.{key}={text}: must be {accepted.get(kind, words)}")
    return value


def _number(text: str, kind: type) -> int | float | None:
    try:
        return kind(text)
    except ValueError:
        return None


def _set(section: ConfigDict, name: str, index: int | None, value: Any) -> None:
    if index is not None:
        elements = list(section[name])
        elements[index] = value
        value = type(section[name])(elements)
    with section.unlocked():
        section[name] = value
