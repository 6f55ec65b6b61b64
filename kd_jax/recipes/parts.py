"""The part of a recipe that one method brings, and the recipe that several parts make together."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from kd_jax import methods
from kd_jax.recipes.arguments import Argument
from kd_jax.recipes.members import Config, factory, member, signature
from kd_jax.recipes.phases import phase, recipe
from kd_jax.typing import InputError


class Part(NamedTuple):
    """What a method brings into a recipe. Terms and refiners are dicts: label -> member.

    terms, refine: of the student's phase.
    teacher_terms: of the teacher's phase, beside its `ce`.
    host: terms that the method is used with; they join if no other part brings a term that can see its work.
    retunes: label of a refiner or term -> what changes if the recipe holds it: label -> keywords and values; the label
      "" is the student's phase, with keys as in `changes`.
    before: name -> phase, between the teacher's phase and the student's.
    changes: key of the student's phase, such as "optim.lr" -> value.
    """

    terms: dict[str, Config] = {}
    refine: dict[str, Config] = {}
    teacher_terms: dict[str, Config] = {}
    host: dict[str, Config] = {}
    retunes: dict[str, dict[str, dict]] = {}
    before: dict[str, Config] = {}
    changes: dict[str, Any] = {}


def distillation(name: str, arg: Argument, *parts: Part) -> Config:
    """The recipe of distillation by one or several methods: a teacher, the phases that the parts bring, a student.

    - If two parts bring a term with one label, the one with the larger weight counts. (SoKD's FitNet and LSKD's KD
      weigh more than those alone; beside a criterion with 1 CE, KD's 0.1 CE becomes 1.)
    - If two parts bring a phase with one name, it is one phase with the terms of both.
    - Refiners stand in the order of the registry.
    - Of several batch sizes and learning rates the smallest counts.
    - If no member needs a teacher, there is none.

    Raises:
      InputError: two parts bring one refiner with different keywords, or two optimisers.
    """
    terms, refine, teacher_terms = {}, {}, {"ce": member("ce")}
    for part in parts:
        terms = _heavier(terms, part.terms)
        for label in part.refine.keys() & refine.keys():
            if part.refine[label] != refine[label]:
                raise InputError(f"{name}: two of its parts bring the refiner {label}, and differ; take one of them")
        refine, teacher_terms = refine | part.refine, teacher_terms | part.teacher_terms
    terms = _with_hosts(terms, parts)
    changes = _changes(name, parts)
    _retune(terms | refine, changes, parts)
    _take_the_refiners_temperature(terms, refine)
    order = [*methods.REFINERS]
    refine = dict(sorted(refine.items(), key=lambda item: order.index(item[1].kind)))
    student = phase(arg.student, terms=terms, refine=refine, teacher="phase:teacher")
    student.update_from_flattened_dict(changes)
    teacher, before = phase(arg.teacher, terms=teacher_terms), _merged(part.before for part in parts)
    if not before and not any(_needs_teacher(m) for m in (terms | refine).values()):
        student.teacher = ""
        return recipe(name, smoke=arg.smoke, student=student)
    return recipe(name, smoke=arg.smoke, teacher=teacher, **before, student=student)


def _changes(name: str, parts: tuple[Part, ...]) -> dict[str, Any]:
    """What the parts change of the student's phase, whatever their order."""
    changes = {}
    for key, value in (item for part in parts for item in part.changes.items()):
        there = changes.setdefault(key, value)
        if key in ("batch_size", "optim.lr"):
            changes[key] = min(there, value)
        elif there != value:
            raise InputError(f"{name}: its parts bring {key}={there} and {key}={value}; take one of them")
    return changes


def _with_hosts(terms: dict[str, Config], parts: tuple[Part, ...]) -> dict[str, Config]:
    """The terms, and the hosts of parts whose work no term can see yet."""
    for part in sorted(parts, key=lambda p: not p.refine):  # refiners first: their hosts may do for the other parts
        needs = [factory(m.kind)().needs - {"labels"} for m in terms.values()]
        refines = [_refines(m) for m in part.refine.values()]
        hosted = all(any(n & r for n in needs) for r in refines) if refines else any(needs)
        terms = _heavier(terms, {label: m for label, m in part.host.items() if not hosted or label in terms})
    return terms


def _refines(refiner: Config) -> frozenset:
    """The needs of terms that can see the work of a refiner with these keywords."""
    return factory(refiner.kind)(**{name: refiner[name] for name in signature(refiner.kind)}).refines


def _retune(members: dict[str, Config], changes: dict[str, Any], parts: tuple[Part, ...]) -> None:
    """Change members, and the changes of the student's phase, as parts ask beside each other."""
    for beside, retuned in (item for part in parts for item in part.retunes.items()):
        for label, values in retuned.items() if beside in members else ():
            (members[label] if label else changes).update(values)


def _take_the_refiners_temperature(terms: dict[str, Config], refine: dict[str, Config]) -> None:
    """Where a refiner sets the temperature, no term sets its own (such as the T = 1 of terms on ImageNet)."""
    if any(factory(m.kind)().refines & {"match", "match.temperature"} for m in refine.values()):
        for term in terms.values():
            if "match.temperature" in factory(term.kind)().needs:
                term.temperature = None


def _merged(groups: Iterable[dict[str, Config]]) -> dict[str, Config]:
    """Phases by name, in its alphabet; phases with one name become one with the terms of all."""
    phases = {}
    for name, new in (item for group in groups for item in group.items()):
        for term in new.terms if name in phases else ():
            phases[name].terms[term] = new.terms[term]
        phases.setdefault(name, new)
    return dict(sorted(phases.items()))


def _needs_teacher(member: Config) -> bool:
    return any(need == "match" or need.startswith("teacher") for need in factory(member.kind)().needs)


def _heavier(a: dict[str, Config], b: dict[str, Config]) -> dict[str, Config]:
    """The members of both; if they share a label, the one with the larger weight."""
    return a | {label: m for label, m in b.items() if label not in a or m.weight > a[label].weight}
