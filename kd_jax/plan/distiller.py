"""A phase's members by name: refiners and criteria made of their keywords, and what they need checked."""

from collections.abc import Callable
from functools import wraps

from kd_jax import config, methods, recipes
from kd_jax.config import config_key
from kd_jax.data.resident import EXTRA_VIEWS
from kd_jax.models.network import Network
from kd_jax.models.outside import LogitsTable
from kd_jax.typing import Distiller, InitContext, InputError, Need, extra_views_of

_FEATURES = {Need.TEACHER_STAGES, Need.TEACHER_PREACTS, Need.TEACHER_CAM}  # of the first teacher
_OPTIONAL = {  # of Outputs
    "stages": "feature maps", "preacts": "pre-activation features", "pooled": "pooled features",
    "cam": "class activation maps", "distill_logits": "a distillation token",
}  # fmt: skip


def members_of(phase: config.Phase, steps_per_epoch: int) -> dict[str, Distiller]:
    """label -> refiner or criterion of a phase, in the order they apply; what they refuse later names their key.

    Raises:
      InputError: naming the key of what a factory does not take.
    """
    groups = {"refine": phase.refine, "terms": phase.terms}
    return {m.label: _member(phase, part, m, steps_per_epoch) for part, group in groups.items() for m in group}


def match_refiners(phase: config.Phase, steps_per_epoch: int) -> Distiller | None:
    """The refiners of a phase that change what criteria on logits compare, in their order; None without any."""
    members = members_of(phase, steps_per_epoch)
    labels = [r.label for r in phase.refine if members[r.label].refines & {Need.MATCH, Need.MATCH_TEMPERATURE}]
    return methods.chain(**{label: members[label] for label in labels}) if labels else None


def _member(phase: config.Phase, part: str, member: config.Member, steps_per_epoch: int) -> Distiller:
    key = f"{phase.name}.{part}.{member.label}"
    factories = methods.REFINERS if part == "refine" else methods.CRITERIA
    make = config_key(key, recipes.factory, member.kind)
    if member.kind not in factories:
        raise InputError(f"config.{key}.kind: {member.kind} does not belong here; known: {', '.join(factories)}")
    keywords = recipes.signature(member.kind)
    kwargs = {}
    for name, value in member.kwargs.items():
        if name not in keywords:
            raise InputError(f"config.{key}.{name}: unknown key; known: {', '.join(keywords)}")
        kind, optional, _ = keywords[name]
        kwargs[name] = config.typed(value, kind | None if optional else kind, f"{key}.{name}")
    weight = kwargs.get("weight", keywords["weight"][2]) if "weight" in keywords else 0.0
    if member.warmup_epochs and weight:
        kwargs["weight"] = methods.ramp(weight, epochs=member.warmup_epochs, steps_per_epoch=steps_per_epoch)
    distiller = config_key(key, make, **kwargs)
    if member.teacher is not None:
        distiller = config_key(f"{key}.teacher", methods.taught_by, distiller, member.teacher)
    return distiller._replace(init=_keyed(distiller.init, key), apply=_keyed(distiller.apply, key))


def _keyed(function: Callable, key: str) -> Callable:
    """A member's function that says whose it is: in the message of what it refuses, as a note on every other error."""

    @wraps(function)
    def call(*args):
        try:
            return function(*args)
        except InputError as e:
            raise (e if str(e).startswith("config.") else InputError(f"config.{key}: {e}")) from e
        except Exception as e:
            e.add_note(f"in the member config.{key}")
            raise

    return call


def check_members(
    phase: config.Phase, members: dict[str, Distiller], networks: dict[str, list[Network]], context: InitContext
) -> None:
    """Refuse members that cannot do their work in this phase.

    Args:
      phase: of the recipe.
      members: label -> member.
      networks: by seat ("student", "teacher").
      context: of the phase's distiller.
    """
    outputs = {"student": [context.view_shapes.student], "teacher": context.view_shapes.teachers}
    _check_refiners(phase, members)
    _check_single_teachers(phase, members, len(outputs["teacher"]))
    for label, member in members.items():
        for name in set(extra_views_of(member.needs)) - {*EXTRA_VIEWS}:
            accepted = ", ".join(EXTRA_VIEWS)
            raise InputError(f"{phase.member_key(label)}: no extra view {name!r}; known: {accepted}")
        for network in networks["teacher"] if extra_views_of(member.needs) else ():
            if isinstance(network.model, LogitsTable):
                lacks = f"compares two views of an image, for which {network.name} has the same logits"
                other = f"accepted: another config.{phase.name}.teacher"
                raise InputError(f"{phase.member_key(label)}: {lacks}; {other}")
        if Need.LABELS in member.needs and context.view_shapes.labels is None:
            without = "accepted: weight=0, or a method that needs none (launch/list.py --only=methods)"
            raise InputError(f"{phase.member_key(label)}: reads labels, but config.data.labels is False; {without}")
    for label, need in ((label, need) for label, member in members.items() for need in sorted(member.needs)):
        seat, _, what = need.partition(".")
        if seat in ("match", "teacher", "fixed", "classes") and not outputs["teacher"]:
            raise InputError(f"config.{phase.name}.teacher: none, but the phase's refiners or terms need one")
        for network, output in zip(networks.get(seat, ()), outputs.get(seat, ()), strict=True):
            if what in _OPTIONAL and getattr(output, what) in (None, ()):
                lacks = f"needs {_OPTIONAL[what]} ({need}), which {network.name} has not"
                other = f"accepted: another config.{phase.name}.{'model' if seat == 'student' else seat}"
                raise InputError(f"{phase.member_key(label)}: {lacks}; {other}")


def check_mixed(phase: config.Phase, members: dict[str, Distiller], teachers: tuple) -> None:
    """Refuse what cannot be where images are mixed (config.data.mix).

    Args:
      phase, members: as for `check_members`.
      teachers: of the phase.
    """
    for label, member in members.items():
        why = "keeps something for each image" if Need.INDEX in member.needs else None
        why = "compares two views of an image" if extra_views_of(member.needs) else why
        if why:
            raise InputError(f"{phase.member_key(label)}: {why}, but config.data.mix mixes images; accepted: mix of 0")
    for teacher in teachers:
        if isinstance(teacher.network.model, LogitsTable):
            origin = f"config.{phase.name}.teacher: {teacher.origin} has logits of images by themselves"
            raise InputError(f"{origin}, but config.data.mix mixes them; accepted: another teacher")


def check_fixed(phase: config.Phase, members: dict[str, Distiller], teachers: tuple) -> None:
    """Refuse members that read their teacher before training, where it moves, or where it is not the one that is asked
    how alike classes are.

    Args:
      phase, members: as for `check_members`.
      teachers: of the phase.
    """
    seats = {term.label: term.teacher for term in phase.terms}
    for label, member in members.items():
        key, seat = phase.member_key(label), seats.get(label) or 0
        if Need.FIXED_TEACHER in member.needs and teachers[seat].load is None:
            lacks = f"reads its teacher before training, but {teachers[seat].origin} changes at every step"
            raise InputError(f"{key}: {lacks}; accepted: another config.{phase.name}.teacher")
        if Need.CLASS_CKA in member.needs and seat:
            raise InputError(f"{key}.teacher: {seat}, but how alike classes are says the first teacher, 0")


def _check_refiners(phase: config.Phase, members: dict[str, Distiller]) -> None:
    """Refuse a refiner whose work no term reads, or all of whose work is a temperature that one behind it replaces."""
    sets_anew = ""
    for refiner in reversed(phase.refine):
        refines, key = members[refiner.label].refines, phase.member_key(refiner.label)
        if sets_anew and refines == {Need.MATCH_TEMPERATURE}:
            raise InputError(f"{key}: sets a temperature, which {sets_anew} behind it replaces; accepted: one of both")
        if refines and not any(members[term.label].needs & refines for term in phase.terms):
            raise InputError(f"{key}: no term can see its work; give one that needs {' or '.join(sorted(refines))}")
        sets_anew = refiner.label if Need.MATCH_TEMPERATURE in refines else sets_anew


def _check_single_teachers(phase: config.Phase, members: dict[str, Distiller], count: int) -> None:
    """Refuse terms on one of several teachers that is not there, or whose features a refiner has changed."""
    for term in phase.terms:
        if term.teacher is None:
            continue
        key = f"{phase.member_key(term.label)}.teacher"
        if term.teacher >= count:
            raise InputError(f"{key}: {term.teacher}, counted from 0; this phase's number of teachers is {count}")
        for refiner in phase.refine:
            if members[refiner.label].refines & members[term.label].needs & _FEATURES:
                raise InputError(f"{key}: {term.teacher}, but {refiner.label} refines what terms without it read")
