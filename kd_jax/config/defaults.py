"""The defaults of the records as a ConfigDict, and what a configuration that lacks keys means."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_origin

from ml_collections import ConfigDict, FieldReference

from kd_jax.config.phase_records import Phase
from kd_jax.config.records import Recipe
from kd_jax.config.values import optional

# what a phase holds otherwise as a sub-configuration than as a record
AS_CONFIG = {"teacher": "", "refine": {}, "refine_order": ()}


def template(record: type, **given: Any) -> ConfigDict:
    """Every key of a record with its default, so that each can be changed on the command line.

    Args:
      record: one of kd_jax.config.records.
      given: values in place of defaults; of keys without a default, which are left out otherwise; of further keys.
    """
    config_dict = ConfigDict()
    values = {field.name: value for field, value in default_fields(record)}
    for field in fields(record):
        if field.name in given:
            config_dict[field.name] = given.pop(field.name)
        elif field.name in values:
            value = values[field.name]
            config_dict[field.name] = template(type(value)) if is_dataclass(value) else typed_field(value, field.type)
    config_dict.update(given)
    return config_dict


def phase_template(**given: Any) -> ConfigDict:
    """The same of a phase, as a sub-configuration has it: its teachers as one string, its members by label."""
    return template(Phase, **{**AS_CONFIG, **given})


def typed_field(value: Any, kind: Any) -> Any:
    """A value for a ConfigDict that takes None and values of one type where `kind` is that type | None."""
    plain, takes_none = optional(kind)
    return FieldReference(value, field_type=get_origin(plain) or plain) if takes_none else value


def default_fields(record: type) -> Iterator[tuple[Field, Any]]:
    """The fields of a record that have a default, and that default."""
    for field in fields(record):
        if field.default_factory is not MISSING:
            yield field, field.default_factory()
        elif field.default is not MISSING:
            yield field, field.default


def completed(tree: dict) -> dict:
    """A configuration, perhaps of an older version, in which every key that it lacks has its default."""
    recipe, phase = template(Recipe).to_dict(), phase_template().to_dict()
    parts = {k: fill(v, phase) for k, v in tree.items() if isinstance(v, dict) and k not in recipe}
    return fill({**tree, **parts}, recipe)


def fill(tree: dict, defaults: dict) -> dict:
    """A nested dict, with the defaults for the keys that it lacks."""
    missing = {key: value for key, value in defaults.items() if key not in tree}
    deeper = {
        key: fill(tree[key], value)
        for key, value in defaults.items()
        if isinstance(value, dict) and isinstance(tree.get(key), dict)
    }
    return {**tree, **deeper, **missing}
