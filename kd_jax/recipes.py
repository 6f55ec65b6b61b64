"""The words that config files are written in: members, phases, recipes, and the argument of get_config.

A config file is plain Python: `get_config(arg)` returns a ConfigDict in which every keyword of every
method stands with its default, so that each can be changed by a flag and none is written twice.
"""

import copy
import inspect
import types
import typing
from typing import NamedTuple

from ml_collections import config_dict

from kd_jax import methods, models
from kd_jax.models import imagenet, vit
from kd_jax.typing import InputError, suggest

Config = config_dict.ConfigDict
# of the papers' CIFAR-100 recipe, by network in lower case; 0.05 for all others
LEARNING_RATES = {"mobilenetv2": 0.01, "shufflev1": 0.01, "shufflev2": 0.01}
# what is otherwise for convolutional networks on ImageNet (mdistiller's configs/imagenet)
IMAGENET = {
    "epochs": 100, "batch_size": 512, "optim.lr": 0.2, "optim.weight_decay": 1e-4, "schedule.milestones": (30, 60, 90),
}  # fmt: skip
# and for vision transformers (Touvron et al. 2020, arXiv 2012.12877: lr 5e-4 x batch / 512). Our choice is to leave out
# its stronger augmentations and stochastic depth; and AdamW decays every parameter here, there not biases and the like
VIT = {
    "epochs": 300, "batch_size": 1024, "optim.name": "adamw", "optim.lr": 1e-3, "optim.weight_decay": 0.05,
    "schedule.name": "cosine", "schedule.milestones": (), "schedule.warmup_epochs": 5.0,
}  # fmt: skip
LARGE = {  # of networks made for large images, in lower case
    name.lower(): changes for family, changes in ((imagenet, IMAGENET), (vit, VIT)) for name in family.NETWORKS
}
IMAGENET_DATA = {"name": "tfds:imagenet2012", "stream": True, "crop": 224}


class Argument(NamedTuple):
    """What `configs/skd.py:resnet32x4,resnet8x4,smoke` says after the colon."""

    teacher: str
    student: str
    smoke: bool

    @property
    def large(self) -> bool:
        """Whether the pair is made for ImageNet's large images."""
        return large(self.student)

    @property
    def tokens(self) -> bool:
        """Whether the student is a vision transformer."""
        return LARGE.get(self.student.lower()) is VIT


def large(model: str) -> bool:
    """Whether a network is made for ImageNet's large images."""
    return model.lower() in LARGE


def argument(text: str | None, *, default: tuple[str, str] = ("resnet32x4", "resnet8x4")) -> Argument:
    """Teacher, student and size from the argument of get_config.

    Args:
      text: comma-separated: a pair of models, "smoke", both, or nothing.
      default: the pair where none is given.

    Raises:
      InputError: one model only, or an unknown word; one network for ImageNet beside one for small images.
    """
    pair, smoke = words(text)
    if len(pair) not in (0, 2):
        raise InputError(f"config argument {text!r}: give TEACHER,STUDENT and, if wanted, smoke")
    for name in pair:
        models.create(name, 2)  # an unknown name lists the known ones
    if len({large(name) for name in pair}) == 2:
        a, b = sorted(pair, key=large, reverse=True)
        raise InputError(f"config argument {text!r}: {a} is for ImageNet, {b} for small images; give two of a kind")
    return Argument(*(pair or default), smoke)


def words(text: str | None) -> tuple[list[str], bool]:
    """What stands between the commas of an argument of get_config, and whether "smoke" is among it."""
    found = [word.strip() for word in (text or "").split(",") if word.strip()]
    return [word for word in found if word != "smoke"], "smoke" in found


def factory(kind: str):
    """The factory of a refiner or a criterion.

    Raises:
      InputError: an unknown name; the message lists the known ones.
    """
    known = {**methods.REFINERS, **methods.CRITERIA}
    if kind not in known:
        raise InputError(f"unknown method {kind!r}; {suggest(kind, known)}")
    return known[kind]


def signature(kind: str) -> dict[str, tuple[type, bool, object]]:
    """keyword -> (type, whether None is accepted, default) of a method's factory."""
    made = {}
    make = factory(kind)
    hints = typing.get_type_hints(make)
    for name, parameter in inspect.signature(make).parameters.items():
        hint = hints[name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType | typing._UnionGenericAlias) else (hint,)
        plain = next(o for o in options if o in (bool, int, float, str))
        made[name] = (plain, type(None) in options, parameter.default)
    return made


def member(kind: str, **changed) -> Config:
    """A refiner or a term with every keyword of its factory, those in `changed` changed.

    Terms also have `warmup_epochs`: the weight rises to its value over that many epochs; and `teacher`: the number
    of the one of several teachers that the term reads, in place of their average (logits) or the first (features).

    Raises:
      InputError: a keyword that the factory has not.
    """
    known = signature(kind)
    made = Config({"kind": kind})
    if kind in methods.CRITERIA:
        made.warmup_epochs = float(changed.pop("warmup_epochs", 0.0))
        made.teacher = config_dict.FieldReference(changed.pop("teacher", None), field_type=int)
    for name in changed:
        if name not in known:
            raise InputError(f"{kind} has no keyword {name!r}; known: {', '.join(known)}")
    for name, (kind_of, optional, default) in known.items():
        value = changed.get(name, default)
        value = float(value) if kind_of is float and value is not None else value
        made[name] = config_dict.FieldReference(value, field_type=kind_of) if optional else value
    return made


def phase(
    model: str, *, terms: dict[str, Config], refine: dict[str, Config] | None = None, teacher: str = "", lr=None
) -> Config:
    """One phase under the papers' CIFAR-100 recipe (240 epochs of SGD, x 0.1 at 150, 180, 210), or under the one that
    LARGE has for the network.

    Args:
      model: name of the network in training.
      terms: label -> member.
      refine: label -> member, in the order they apply.
      teacher: "phase:NAME", "checkpoint:DIR", "weights:FILE", "ema", several joined by commas, or "".
      lr: learning rate per global batch; None is what the papers take for this network.
    """
    terms, refine = copy.deepcopy((terms, refine or {}))  # else a flag for one phase would change another
    changes = LARGE.get(model.lower(), {}) | ({} if lr is None else {"optim.lr": lr})
    made = Config({
        "model": model,
        "weights": "",
        "teacher": teacher,
        "refine": Config(refine),
        "refine_order": tuple(refine),
        "terms": Config(terms),
        "init": {"student": "", "method": ""},
        "trains": "all",
        "ema": config_dict.placeholder(float),
        "epochs": 240,
        "steps": config_dict.placeholder(int),
        "batch_size": 64,
        "accumulate": 1,
        "remat": False,
        "optim": {
            "name": "sgd", "lr": LEARNING_RATES.get(model.lower(), 0.05), "momentum": 0.9, "weight_decay": 5e-4,
            "nesterov": False, "delta": 0.0,
            "clip": 0.0,
        },
        "schedule": {"name": "step", "milestones": (150, 180, 210), "gamma": 0.1, "warmup_epochs": 0.0},
    })  # fmt: skip
    made.update_from_flattened_dict(changes)
    return made


def before(model: str, *, terms: dict[str, Config], teacher: str = "", lr=None) -> Config:
    """A phase that prepares the next one, as the papers' benchmark has it: 30 epochs at one rate. Arguments as for
    `phase`."""
    made = phase(model, terms=terms, teacher=teacher, lr=lr)
    made.epochs, made.schedule.milestones = 30, ()
    return made


def recipe(name: str, *, smoke: bool = False, data: str = "", **phases: Config) -> Config:
    """A whole run of phases in the order given.

    Args:
      name: of the recipe, for summary.json.
      smoke: shrink everything but the networks: synthetic 32 x 32 x 3 images, batch 8, two steps a
        phase, no warm-up, one test row a phase.
      data: name of the data set; "" takes CIFAR-100, or ImageNet where a phase's network is made for that.
      **phases: name -> phase.
    """
    made = Config({
        "name": name,
        "seed": 0,
        "skip_nonfinite": 0,
        "teacher_check": True,
        "precision": "float32",
        "phases": tuple(phases),
        "data": {
            "name": data or "cifar100",
            "dir": "",
            "seed": config_dict.placeholder(int),
            "augment": "auto",
            "size": 0,
            "stream": False,
            "crop": 0,
            "workers": config_dict.placeholder(int),
            "test_fraction": 0.2,
            "subset": 0.0,
            "strong": {"ops": 2, "magnitude": 10.0},
            "synthetic": {"classes": 100, "size": 32, "channels": 3, "train": 64, "test": 32},
        },
        "parallel": {"scope": "global", "mesh": ()},
        "checkpoint": {"every": 0, "keep": 2, "best": 0},
        "log": {"every": 50, "tensorboard": False},
        "eval": {"every": 1},
        **phases,
    })  # fmt: skip
    if not (data or smoke) and any(large(part.model) for part in phases.values()):
        made.data.update(IMAGENET_DATA)
    if smoke:
        made.data.name = "synthetic"
        made.log.every, made.teacher_check = 1, False  # two steps teach no teacher anything
        for part in phases.values():
            part.steps, part.batch_size, part.schedule.warmup_epochs = 2, 8, 0.0
            for term in part.terms.values():
                term.warmup_epochs = 0.0
    return made


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
    changes: dict[str, typing.Any] = {}


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
