"""What a method brings into a recipe, and the recipe of several methods together."""

from typing import Any, NamedTuple

from kd_jax import methods
from kd_jax.recipes.arguments import Argument
from kd_jax.recipes.members import Config, factory, member
from kd_jax.recipes.phases import phase, recipe


class Part(NamedTuple):
    """What a method brings into a recipe; terms are label -> member.

    terms and refine: of the student's phase. teacher_terms: of the teacher's, beside its `ce`. host: terms that the
    method is used with where no other part brings one that can see its work. retunes: label of a member -> what to
    change beside it, label -> keywords and values; "" is the student's phase, as in `changes`. before: name -> phase,
    between the teacher's and the student's. changes: of the student's phase, "optim.lr" and the like -> value.
    """

    terms: dict[str, Config] = {}
    refine: dict[str, Config] = {}
    teacher_terms: dict[str, Config] = {}
    host: dict[str, Config] = {}
    retunes: dict[str, dict[str, dict]] = {}
    before: dict[str, Config] = {}
    changes: dict[str, Any] = {}


def distillation(name: str, arg: Argument, *parts: Part) -> Config:
    """The two phases of every distillation recipe: a teacher, then a student that learns from it. Between them stand
    the phases that parts bring (those of one name become one); no teacher where nothing needs one.

    Where two parts bring a term of one label, the one with the larger weight counts (SoKD's FitNet and LSKD's KD
    weigh more than those alone; beside a criterion with 1 CE, KD's 0.1 CE becomes 1). Refiners stand in the
    registry's order.
    """
    terms, refine, teacher_terms = {}, {}, {"ce": member("ce")}
    for part in parts:
        terms = _heavier(terms, part.terms)
        refine, teacher_terms = refine | part.refine, teacher_terms | part.teacher_terms
    for part in sorted(parts, key=lambda p: not p.refine):  # what refines, first: its host may do for the others
        needs = [factory(m.kind)().needs for m in terms.values()]
        refines = [factory(m.kind)().refines for m in part.refine.values()]
        hosted = all(any(n & r for n in needs) for r in refines) if refines else any(needs)
        terms = _heavier(terms, {label: m for label, m in part.host.items() if not hosted or label in terms})
    phase_changes = {key: value for part in parts for key, value in part.changes.items()}
    for beside, changes in (item for part in parts for item in part.retunes.items()):
        for label, values in changes.items() if beside in terms | refine else ():
            ((terms | refine)[label] if label else phase_changes).update(values)
    if any(factory(m.kind)().refines & {"match", "match.temperature"} for m in refine.values()):
        for made in terms.values():  # the refiner's temperature counts, not the T = 1 that terms have on ImageNet
            if "match.temperature" in factory(made.kind)().needs:
                made.temperature = None
    order = [*methods.REFINERS]
    before = {}
    for label, made in (item for part in parts for item in part.before.items()):
        for term in made.terms if label in before else ():
            before[label].terms[term] = made.terms[term]
        before.setdefault(label, made)
    refine = dict(sorted(refine.items(), key=lambda item: order.index(item[1].kind)))
    student = phase(arg.student, terms=terms, refine=refine, teacher="phase:teacher")
    student.update_from_flattened_dict(phase_changes)
    made = {"teacher": phase(arg.teacher, terms=teacher_terms), **dict(sorted(before.items())), "student": student}
    if not before and not any(_needs_teacher(m) for m in (terms | refine).values()):
        del made["teacher"]
        student.teacher = ""
    return recipe(name, smoke=arg.smoke, **made)


def _needs_teacher(member: Config) -> bool:
    return any(need == "match" or need.startswith("teacher") for need in factory(member.kind)().needs)


def _heavier(a: dict[str, Config], b: dict[str, Config]) -> dict[str, Config]:
    """Both; of members with one label, the one with the larger weight."""
    return a | {label: m for label, m in b.items() if label not in a or m.weight > a[label].weight}
