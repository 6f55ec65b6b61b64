"""From a nested dict to the records, once."""

import typing
from dataclasses import fields, is_dataclass
from typing import Any

from kd_jax.config.defaults import completed, default_fields
from kd_jax.config.keys import require
from kd_jax.config.phase_records import Member, Phase
from kd_jax.config.records import Recipe
from kd_jax.config.values import typed
from kd_jax.typing import InputError


def _record(cls, tree: Any, key: str):
    """A checked dataclass from a dict with exactly its fields."""
    _exact(tree, [f.name for f in fields(cls)], key)
    values = {}
    for field in fields(cls):
        name, value = f"{key}.{field.name}" if key else field.name, tree[field.name]
        if typing.get_origin(field.type) is dict:
            _exact(value, list(field.default_factory()), name)
        nested = is_dataclass(field.type) and not isinstance(value, field.type)
        values[field.name] = _record(field.type, value, name) if nested else typed(value, field.type, name)
    record = cls(**values)
    record.check(key)
    return record


def _exact(tree: Any, names: list[str], key: str) -> None:
    """Refuse keys that are not known, and keys that are missing."""
    require(isinstance(tree, dict), key, tree, "a sub-configuration")
    where = f"config.{key}" if key else "config"
    for name in sorted(set(tree) - set(names)):
        raise InputError(f"{where}.{name}: unknown key; known: {', '.join(names)}")
    for name in sorted(set(names) - set(tree)):
        raise InputError(f"{where}.{name}: missing key")


def _members(tree: Any, order: tuple[str, ...] | None, key: str) -> tuple[Member, ...]:
    """Members in an order of their labels, None for the alphabet; the factories' keywords stay unchecked."""
    require(isinstance(tree, dict), key, tree, "a sub-configuration")
    members = []
    for label in sorted(tree) if order is None else order:
        if label not in tree:
            raise InputError(f"config.{key}: no member {label!r}; there are: {', '.join(tree) or 'none'}")
        where = f"{key}.{label}"
        require(isinstance(tree[label], dict), where, tree[label], "a sub-configuration")
        kwargs = dict(tree[label])
        kind = kwargs.pop("kind", None) or label
        every = {field.name: kwargs.pop(field.name, value) for field, value in default_fields(Member)}
        members.append(_record(Member, {"label": label, "kind": kind, "kwargs": kwargs, **every}, where))
    return tuple(members)


def _phase(tree: Any, name: str) -> Phase:
    """A phase from its sub-configuration, in which members stand under their labels."""
    _exact(tree, [f.name for f in fields(Phase) if f.name != "name"] + ["refine_order"], name)
    tree = dict(tree, name=name)
    order = typed(tree.pop("refine_order"), tuple[str, ...], f"{name}.refine_order")
    tree["refine"] = _members(tree["refine"], order, f"{name}.refine")
    tree["terms"] = _members(tree["terms"], None, f"{name}.terms")
    origins = typed(tree["teacher"], str, f"{name}.teacher")
    tree["teacher"] = tuple(part.strip() for part in origins.split(",") if part.strip())
    return _record(Phase, tree, name)


def parse(tree: dict) -> Recipe:
    """A validated Recipe from the nested dict of a ConfigDict; keys that are not there have their defaults.

    Raises:
      InputError: naming the key, the value and what is accepted.
    """
    tree = completed(tree)
    keys = [f.name for f in fields(Recipe)]
    names = typed(tree.get("phases", ()), tuple[str, ...], "phases")
    require(bool(names) and len(set(names)) == len(names), "phases", names, "different names, at least one")
    for name in names:
        plain = name.replace("_", "").replace("-", "").isalnum() and name not in keys
        require(plain, "phases", name, f"names of letters, digits, _ and -, other than {', '.join(keys)}")
        require(name in tree, "phases", name, f"names of sub-configurations; there is no config.{name}")
    unused = {k for k, v in tree.items() if k not in keys and isinstance(v, dict) and "model" in v}  # phases left out
    whole = {k: v for k, v in tree.items() if k not in unused | set(names)}
    whole["phases"] = tuple(_phase(tree[name], name) for name in names)
    return _record(Recipe, whole, "")
