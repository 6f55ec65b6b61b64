"""From a nested dict to the records, once."""

import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any

from kd_jax.config.records import Member, Phase, Recipe, require
from kd_jax.typing import InputError


def typed(value: Any, kind: Any, key: str) -> Any:
    """value as `kind` (int, float, str, bool, dict, tuple[x, ...], x | None, a dataclass), or an InputError."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    kind = options[0]
    if typing.get_origin(kind) is tuple:
        (inner, _) = typing.get_args(kind)
        require(isinstance(value, list | tuple), key, value, f"a tuple like (1, 2), of {inner.__name__}")
        return tuple(typed(v, inner, key) for v in value)
    if is_dataclass(kind) and isinstance(value, dict):
        return _record(kind, value, key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), key, value, kind.__name__)
    return value


def _record(cls, tree: dict, at: str):
    """A checked dataclass from a dict with exactly its fields."""
    _exact(tree, [f.name for f in fields(cls)], at)
    made = cls(**{f.name: typed(tree[f.name], f.type, f"{at}.{f.name}") for f in fields(cls)})
    made.check(at)
    return made


def _exact(tree: Any, names: list[str], at: str) -> None:
    """Refuse keys that are not known, and keys that are missing."""
    require(isinstance(tree, dict), at, tree, "a sub-configuration")
    where = f"config.{at}" if at else "config"
    for name in sorted(set(tree) - set(names)):
        raise InputError(f"{where}.{name}: unknown key; known: {', '.join(names)}")
    for name in sorted(set(names) - set(tree)):
        raise InputError(f"{where}.{name}: missing key")


def _members(tree: dict, order: tuple[str, ...], at: str) -> tuple[Member, ...]:
    made = []
    for label in order:
        if label not in tree:
            raise InputError(f"config.{at}: no member {label!r}; there are: {', '.join(tree) or 'none'}")
        kwargs = dict(tree[label])
        kind = kwargs.pop("kind", None) or label
        warmup = typed(kwargs.pop("warmup_epochs", 0.0), float, f"{at}.{label}.warmup_epochs")
        teacher = typed(kwargs.pop("teacher", None), int | None, f"{at}.{label}.teacher")
        made.append(Member(label, kind, kwargs, warmup, teacher))
        made[-1].check(f"{at}.{label}")
    return tuple(made)


def _phase(tree: Any, name: str) -> Phase:
    """A phase from its sub-configuration, in which members stand under their labels."""
    _exact(tree, [f.name for f in fields(Phase) if f.name != "name"] + ["refine_order"], name)
    tree = dict(tree, name=name)
    order = typed(tree.pop("refine_order"), tuple[str, ...], f"{name}.refine_order")
    tree["refine"] = _members(tree["refine"], order, f"{name}.refine")
    tree["terms"] = _members(tree["terms"], tuple(sorted(tree["terms"])), f"{name}.terms")
    origins = typed(tree["teacher"], str, f"{name}.teacher")
    tree["teacher"] = tuple(part.strip() for part in origins.split(",") if part.strip())
    return _record(Phase, tree, name)


def parse(tree: dict) -> Recipe:
    """A validated Recipe from the nested dict of a ConfigDict.

    Raises:
      InputError: naming the key, the value and what is accepted.
    """
    own = [f.name for f in fields(Recipe)]
    names = typed(tree.get("phases", ()), tuple[str, ...], "phases")
    require(bool(names) and len(set(names)) == len(names), "phases", names, "different names, at least one")
    for name in names:
        plain = name.replace("_", "").replace("-", "").isalnum() and name not in own
        require(plain, "phases", name, f"names of letters, digits, _ and -, other than {', '.join(own)}")
        require(name in tree, "phases", name, f"names of sub-configurations; there is no config.{name}")
    unused = {k for k, v in tree.items() if k not in own and isinstance(v, dict) and "model" in v}  # phases left out
    whole = {k: v for k, v in tree.items() if k not in unused}
    whole["phases"] = tuple(_phase(tree[name], name) for name in names)
    _exact(whole, own, "")
    made = Recipe(**{f.name: typed(whole[f.name], f.type, f.name) for f in fields(Recipe)})
    made.check()
    return made
