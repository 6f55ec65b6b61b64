"""From a ConfigDict to frozen dataclasses, once. Every error names its key, the value and what is accepted."""

import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from kd_jax.typing import InputError


def _require(ok: bool, key: str, value: Any, accepted: str) -> None:
    if not ok:
        raise InputError(f"config.{key}: must be {accepted}, got {value!r}")


@dataclass(frozen=True)
class Member:
    """One refiner or term: the factory's name and its keyword arguments, still unchecked."""

    label: str
    kind: str
    kwargs: dict[str, Any]
    warmup_epochs: float

    def check(self, at: str) -> None:
        ok = 0 <= self.warmup_epochs < float("inf")
        _require(ok, f"{at}.warmup_epochs", self.warmup_epochs, "finite, at least 0")


@dataclass(frozen=True)
class Optim:
    """Learning rate per global batch; momentum is AdamW's beta_1."""

    name: str
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool

    def check(self, at: str) -> None:
        _require(self.name in ("sgd", "adamw"), f"{at}.name", self.name, "sgd or adamw")
        _require(0 < self.lr < float("inf"), f"{at}.lr", self.lr, "a finite number above 0")
        _require(0 <= self.momentum < 1, f"{at}.momentum", self.momentum, "at least 0 and below 1")
        _require(0 <= self.weight_decay < float("inf"), f"{at}.weight_decay", self.weight_decay, "finite, at least 0")
        _require(
            not self.nesterov or (self.name == "sgd" and self.momentum > 0),
            f"{at}.nesterov", self.nesterov, "False unless optim.name is sgd with momentum",
        )  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """milestones and warmup_epochs in epochs."""

    name: str
    milestones: tuple[float, ...]
    gamma: float
    warmup_epochs: float

    def check(self, at: str) -> None:
        _require(self.name in ("step", "cosine"), f"{at}.name", self.name, "step or cosine")
        rising = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        _require(rising, f"{at}.milestones", self.milestones, "rising epochs above 0")
        _require(0 < self.gamma <= 1, f"{at}.gamma", self.gamma, "above 0, at most 1")
        _require(
            0 <= self.warmup_epochs < float("inf"), f"{at}.warmup_epochs", self.warmup_epochs, "finite, at least 0"
        )


@dataclass(frozen=True)
class Init:
    """Where a phase starts. student: "" at random, or weights that are there already."""

    student: str

    def check(self, at: str) -> None:
        kind, _, rest = self.student.partition(":")
        known = not self.student or kind in ("phase", "checkpoint", "weights") and rest
        _require(
            known, f"{at}.student", self.student, "empty, phase:NAME, phase:NAME/LABEL, checkpoint:DIR or weights:FILE"
        )


@dataclass(frozen=True)
class Phase:
    """One network trained from start to end. teacher: where it comes from, () for none. weights: a file to
    load in place of training, or ""."""

    name: str
    model: str
    weights: str
    teacher: tuple[str, ...]
    refine: tuple[Member, ...]
    terms: tuple[Member, ...]
    init: Init
    epochs: int
    steps: int | None
    batch_size: int
    optim: Optim
    schedule: Schedule

    def check(self, at: str) -> None:
        for origin in self.teacher:
            kind, _, rest = origin.partition(":")
            known = kind in ("phase", "checkpoint", "weights") and rest
            accepted = "phase:NAME, checkpoint:DIR or weights:FILE (or several, joined by commas)"
            _require(known, f"{at}.teacher", origin, accepted)
        _require(self.steps is None or self.steps > 0, f"{at}.steps", self.steps, "a number above 0, or None")
        _require(self.steps is not None or self.epochs > 0, f"{at}.epochs", self.epochs, "a number above 0")
        once = not (self.weights and self.init.student)
        _require(once, f"{at}.init.student", self.init.student, f"empty where {at}.weights is given")
        _require(self.batch_size > 0, f"{at}.batch_size", self.batch_size, "a number above 0")
        _require(bool(self.terms), f"{at}.terms", {}, "at least one term")
        clash = sorted({m.label for m in self.refine} & {m.label for m in self.terms})
        _require(not clash, f"{at}.terms", clash, "labelled otherwise than the refiners")


@dataclass(frozen=True)
class Data:
    """seed None is the run's seed. augment "auto" is the data set's usual one. size: pixels a side, 0 as
    they are. test_fraction: held out where a folder has no test part. subset: training examples, 0 for
    all, below 1 a fraction, otherwise a count."""

    name: str
    dir: str
    seed: int | None
    augment: str
    size: int
    test_fraction: float
    subset: float
    synthetic: dict = field(default_factory=dict)

    def check(self, at: str) -> None:
        accepted = ("auto", "crop_flip", "crop", "none")
        _require(self.augment in accepted, f"{at}.augment", self.augment, "auto, crop_flip, crop or none")
        _require(self.seed is None or self.seed >= 0, f"{at}.seed", self.seed, "at least 0, or None")
        _require(self.size >= 0, f"{at}.size", self.size, "pixels a side, or 0 for the images as they are")
        _require(0 < self.test_fraction < 1, f"{at}.test_fraction", self.test_fraction, "above 0 and below 1")
        part = 0 <= self.subset < 1 or self.subset.is_integer() and self.subset > 0
        _require(part, f"{at}.subset", self.subset, "0 for all, a fraction below 1, or a whole number")


@dataclass(frozen=True)
class Parallel:
    """scope: see kd_jax.parallel. mesh: () for all devices, or (n,) for the first n."""

    scope: str
    mesh: tuple[int, ...]

    def check(self, at: str) -> None:
        _require(self.scope in ("global", "device"), f"{at}.scope", self.scope, "global or device")
        ok = len(self.mesh) <= 1 and all(n > 0 for n in self.mesh)
        _require(ok, f"{at}.mesh", self.mesh, "() for all devices or (N,) for N of them")


@dataclass(frozen=True)
class Checkpoint:
    """every: steps between saves, 0 for once an epoch. keep: how many of a phase's last ones stay.
    best: how many stay besides, those with the highest top-1 on the test set."""

    every: int
    keep: int
    best: int

    def check(self, at: str) -> None:
        _require(self.every >= 0, f"{at}.every", self.every, "steps, or 0 for once an epoch")
        _require(self.keep > 0, f"{at}.keep", self.keep, "a number above 0")
        _require(self.best >= 0, f"{at}.best", self.best, "a number, at least 0")


@dataclass(frozen=True)
class Log:
    """every: steps between training rows. tensorboard: also write its event files."""

    every: int
    tensorboard: bool

    def check(self, at: str) -> None:
        _require(self.every > 0, f"{at}.every", self.every, "a number of steps above 0")


@dataclass(frozen=True)
class Eval:
    """every: epochs between evaluations; the last step is always evaluated."""

    every: int

    def check(self, at: str) -> None:
        _require(self.every > 0, f"{at}.every", self.every, "a number of epochs above 0")


@dataclass(frozen=True)
class Recipe:
    """A whole run. skip_nonfinite: updates a phase may leave out because they are not finite.
    teacher_check: whether a teacher near chance stops the run."""

    name: str
    seed: int
    skip_nonfinite: int
    teacher_check: bool
    phases: tuple[Phase, ...]
    data: Data
    parallel: Parallel
    checkpoint: Checkpoint
    log: Log
    eval: Eval

    def check(self) -> None:
        _require(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")
        _require(self.skip_nonfinite >= 0, "skip_nonfinite", self.skip_nonfinite, "a number of updates, at least 0")
        seen = []
        for phase in self.phases:
            named = [(f"{phase.name}.teacher", origin, origin[6:]) for origin in phase.teacher]
            named.append((f"{phase.name}.init.student", phase.init.student, phase.init.student[6:].partition("/")[0]))
            for key, origin, name in named:
                if origin.startswith("phase:"):
                    earlier = f"an earlier phase ({', '.join(seen) or 'there is none'})"
                    _require(name in seen, key, origin, f"phase:NAME of {earlier}")
            seen.append(phase.name)

    @property
    def data_seed(self) -> int:
        return self.seed if self.data.seed is None else self.data.seed


def typed(value: Any, kind: Any, key: str) -> Any:
    """value as `kind` (int, float, str, bool, dict, tuple[x, ...], x | None, a dataclass), or an InputError."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    kind = options[0]
    if typing.get_origin(kind) is tuple:
        (inner, _) = typing.get_args(kind)
        _require(isinstance(value, list | tuple), key, value, f"a tuple like (1, 2), of {inner.__name__}")
        return tuple(typed(v, inner, key) for v in value)
    if is_dataclass(kind) and isinstance(value, dict):
        return _record(kind, value, key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _require(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), key, value, kind.__name__)
    return value


def _record(cls, tree: dict, at: str):
    """A checked dataclass from a dict with exactly its fields."""
    _exact(tree, [f.name for f in fields(cls)], at)
    made = cls(**{f.name: typed(tree[f.name], f.type, f"{at}.{f.name}") for f in fields(cls)})
    made.check(at)
    return made


def _exact(tree: Any, names: list[str], at: str) -> None:
    """Refuse keys that are not known, and keys that are missing."""
    _require(isinstance(tree, dict), at, tree, "a sub-configuration")
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
        made.append(Member(label, kind, kwargs, typed(kwargs.pop("warmup_epochs", 0.0), float, f"{at}.{label}")))
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
    _require(bool(names) and len(set(names)) == len(names), "phases", names, "different names, at least one")
    for name in names:
        plain = name.replace("_", "").replace("-", "").isalnum() and name not in own
        _require(plain, "phases", name, f"names of letters, digits, _ and -, other than {', '.join(own)}")
        _require(name in tree, "phases", name, f"names of sub-configurations; there is no config.{name}")
    unused = {k for k, v in tree.items() if k not in own and isinstance(v, dict) and "model" in v}  # phases left out
    whole = {k: v for k, v in tree.items() if k not in unused}
    whole["phases"] = tuple(_phase(tree[name], name) for name in names)
    _exact(whole, own, "")
    made = Recipe(**{f.name: typed(whole[f.name], f.type, f.name) for f in fields(Recipe)})
    made.check()
    return made
