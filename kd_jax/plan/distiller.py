"""A phase's members by name: refiners and criteria made of their keywords, and what they need checked."""

from kd_jax import config, methods, recipes
from kd_jax.config import at
from kd_jax.models.graft import parse
from kd_jax.typing import Distiller, InitContext, InputError


def members_of(phase: config.Phase, steps_per_epoch: int) -> dict[str, Distiller]:
    """label -> refiner or criterion of a phase, in the order they apply.

    Raises:
      InputError: naming the key of what a factory does not take.
    """
    groups = {"refine": phase.refine, "terms": phase.terms}
    return {m.label: _member(phase, part, m, steps_per_epoch) for part, group in groups.items() for m in group}


def _member(phase: config.Phase, part: str, member: config.Member, steps_per_epoch: int) -> Distiller:
    key = f"{phase.name}.{part}.{member.label}"
    known = methods.REFINERS if part == "refine" else methods.CRITERIA
    make = at(key, recipes.factory, member.kind)
    if member.kind not in known:
        raise InputError(f"config.{key}.kind: {member.kind} does not belong here; known: {', '.join(known)}")
    names = recipes.signature(member.kind)
    kwargs = {}
    for name, value in member.kwargs.items():
        if name not in names:
            raise InputError(f"config.{key}.{name}: unknown key; known: {', '.join(names)}")
        kind, optional, _ = names[name]
        kwargs[name] = config.typed(value, kind | None if optional else kind, f"{key}.{name}")
    weight = kwargs.get("weight", names["weight"][2]) if "weight" in names else 0.0
    if member.warmup_epochs and weight:
        kwargs["weight"] = methods.ramp(weight, epochs=member.warmup_epochs, steps_per_epoch=steps_per_epoch)
    made = at(key, make, **kwargs)
    return made if member.teacher is None else at(f"{key}.teacher", methods.taught_by, made, member.teacher)


_MAPS = {"teacher.stages", "teacher.preacts", "student.preacts"}
_ON_MAPS = ("paraphraser", "simkd")  # read maps of the network in training
# read tokens as maps, by kd_jax.methods.stages
_ON_TOKENS = ("fitnet", "at", "nst", "kdsvd", "vid", "dafa", "dam", "sftn_branches")


def check_maps(phase: config.Phase, members: dict[str, Distiller], networks: list, context: InitContext) -> None:
    """Refuse methods on feature maps where a network has tokens, but for those that read them as maps. networks: the
    student, then the teachers."""
    seen = (context.view_shapes.student, *context.view_shapes.teachers)
    for network, outputs in zip(networks, seen, strict=True):
        if len(outputs.stages[0].shape) == 4:
            continue
        for part, group in (("refine", phase.refine), ("terms", phase.terms)):
            for m in group:
                if m.kind not in _ON_TOKENS and (members[m.label].needs & _MAPS or m.kind in _ON_MAPS):
                    key = f"config.{phase.name}.{part}.{m.label}"
                    raise InputError(f"{key}: needs feature maps (B, H, W, C), but {network.name} has tokens")


_FEATURES = {"teacher.stages", "teacher.preacts", "teacher.cam"}  # of the first teacher
_OPTIONAL = {"preacts": "pre-activation features", "cam": "class activation maps"}  # of Outputs


def check_graft(phase: config.Phase) -> None:
    """Refuse SimKD on a network that is no graft: what it trains would not be what the network says."""
    for term in phase.terms:
        if term.kind == "simkd" and parse(phase.model) is None:
            raise InputError(f"config.{phase.name}.model: {phase.model}; simkd needs graft:STUDENT+TEACHER")


def check_needs(
    phase: config.Phase, members: dict[str, Distiller], networks: dict[str, list], context: InitContext
) -> None:
    """Refuse a member that needs what is not there. networks: by seat ("student", "teacher")."""
    seen = {"student": [context.view_shapes.student], "teacher": context.view_shapes.teachers}
    for refiner in phase.refine:
        refines = members[refiner.label].refines
        if refines and not any(members[term.label].needs & refines for term in phase.terms):
            key = f"config.{phase.name}.refine.{refiner.label}"
            raise InputError(f"{key}: no term can see its work; give one that needs {' or '.join(sorted(refines))}")
    for term in phase.terms:
        if term.teacher is not None and term.teacher >= len(seen["teacher"]):
            key, count = f"config.{phase.name}.terms.{term.label}.teacher", len(seen["teacher"])
            raise InputError(f"{key}: {term.teacher}, counted from 0; this phase's number of teachers is {count}")
        for refiner in phase.refine if term.teacher is not None else ():
            if members[refiner.label].refines & members[term.label].needs & _FEATURES:
                key = f"config.{phase.name}.terms.{term.label}.teacher"
                raise InputError(f"{key}: {term.teacher}, but {refiner.label} refines what terms without it read")
    for label, need in ((label, need) for label, member in members.items() for need in sorted(member.needs)):
        seat, _, what = need.partition(".")
        if (need == "match" or seat == "teacher") and not seen["teacher"]:
            raise InputError(f"config.{phase.name}.teacher: none, but the phase's refiners or terms need one")
        for network, outputs in zip(networks.get(seat, ()), seen.get(seat, ()), strict=True):
            if what in _OPTIONAL and getattr(outputs, what) is None:
                part = "refine" if label in {m.label for m in phase.refine} else "terms"
                lacking = f"needs {_OPTIONAL[what]} ({need}), which {network.name} has not"
                raise InputError(f"config.{phase.name}.{part}.{label}: {lacking}")
