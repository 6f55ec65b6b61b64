"""Refiners and terms as sub-configurations, every keyword of their factory with its default."""

from collections.abc import Callable

from ml_collections import ConfigDict as Config

from kd_jax import config, methods
from kd_jax.recipes.keywords import Keyword, keywords
from kd_jax.typing import InputError, suggest


def factory(kind: str) -> Callable:
    """The factory of a refiner or a criterion.

    Raises:
      InputError: an unknown name; the message lists the known ones.
    """
    factories = {**methods.REFINERS, **methods.CRITERIA}
    if kind not in factories:
        raise InputError(f"unknown method {kind!r}; {suggest(kind, factories)}")
    return factories[kind]


def signature(kind: str) -> dict[str, Keyword]:
    """name -> type and default of the keywords of a method's factory.

    Raises:
      InputError: an unknown method, or a keyword that a configuration cannot hold.
    """
    return keywords(factory(kind))


def member(kind: str, **changed) -> Config:
    """A refiner or a term with every keyword of its factory, those in `changed` changed.

    Terms also have `warmup_epochs`: the weight rises to its value over that many epochs; and `teacher`: the number
    of the one of several teachers that the term reads, in place of their average (logits) or the first (features).

    Raises:
      InputError: a keyword that the factory does not have, or a value of another type.
    """
    every = _keywords(kind)
    for name in changed:
        if name not in every:
            raise InputError(f"{kind} has no keyword {name!r}; known: {', '.join(signature(kind))}")
    entry = Config({"kind": kind})
    for name, keyword in every.items():
        value = config.typed(changed[name], keyword.type, f"{kind}.{name}") if name in changed else keyword.default
        entry[name] = config.typed_field(value, keyword.type)
    return entry


def completed(tree: dict) -> dict:
    """The configuration of a run, perhaps of an older version: keys that it does not have yet have their defaults,
    keywords of its members that of their factory; comma-joined strings of older runs are tuples where the factory
    takes tuples now."""
    tree = config.completed(tree)
    phases = {k: _completed_phase(v) for k, v in tree.items() if isinstance(v, dict) and "refine_order" in v}
    return {**tree, **phases}


def _completed_phase(phase: dict) -> dict:
    groups = {group: phase[group] for group in ("refine", "terms") if isinstance(phase.get(group), dict)}
    return phase | {group: {k: _completed_member(k, v) for k, v in tree.items()} for group, tree in groups.items()}


def _completed_member(label: str, tree: dict) -> dict:
    """What is wrong in it stays as it is: it is refused where the configuration is parsed."""
    kind = tree.get("kind") or label if isinstance(tree, dict) else None
    if kind not in {**methods.REFINERS, **methods.CRITERIA}:
        return tree
    every = _keywords(kind)
    values = {"kind": kind} | {name: keyword.default for name, keyword in every.items()} | tree
    return {name: _from_text(value, every[name]) if name in every else value for name, value in values.items()}


def _keywords(kind: str) -> dict[str, Keyword]:
    """Those of the factory; of a term also those that every term has."""
    shared = {}
    if kind in methods.CRITERIA:
        shared = {f.name: Keyword(*config.optional(f.type), value) for f, value in config.default_fields(config.Member)}
    return shared | signature(kind)


def _from_text(value, keyword: Keyword):
    """The tuple that a string spells, where the keyword takes tuples; any other value as it is."""
    if keyword.kind in (bool, int, float, str) or not isinstance(value, str):
        return value
    elements = config.as_tuple(value, keyword.kind.__args__[0])
    return value if elements is None else elements
