"""What a phase of a recipe is, as frozen dataclasses; see records.py."""

from dataclasses import dataclass

from kd_jax.config.keys import require

TEACHERS = {  # kinds of teachers, and what stands behind the colon
    "phase": "NAME", "checkpoint": "DIR", "weights": "FILE", "python": "MODULE:FUNCTION", "logits": "FILE.npz",
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One refiner or term: the factory's name and its keyword arguments, still unchecked. teacher: the one of
    several, counted from 0, that a term reads; None for what methods read by themselves."""

    label: str
    kind: str
    kwargs: dict
    warmup_epochs: float = 0.0
    teacher: int | None = None

    def check(self, key: str) -> None:
        ok = 0 <= self.warmup_epochs < float("inf")
        require(ok, f"{key}.warmup_epochs", self.warmup_epochs, "finite, at least 0")
        seat = self.teacher is None or self.teacher >= 0
        require(seat, f"{key}.teacher", self.teacher, "the number of a teacher, counted from 0, or None")


@dataclass(frozen=True)
class Optim:
    """Learning rate per global batch; momentum is AdamW's beta_1. delta: of name="dot" or "deepkd", by how much the
    momentum of one gradient is lower, and that of the others higher; 0 is plain SGD. clip: the largest norm of the
    gradient of all that the loss trains, before weight decay and momentum; 0 leaves it as it is. decay_all: whether
    every parameter decays, or as in timm only matrices and kernels, not biases, normalisation, class tokens and
    positions. The plan checks the name, and what that optimiser takes."""

    name: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    delta: float = 0.0
    clip: float = 0.0
    decay_all: bool = True

    def check(self, key: str) -> None:
        require(0 < self.lr < float("inf"), f"{key}.lr", self.lr, "a finite number above 0")
        require(0 <= self.momentum < 1, f"{key}.momentum", self.momentum, "at least 0 and below 1")
        require(0 <= self.weight_decay < float("inf"), f"{key}.weight_decay", self.weight_decay, "finite, at least 0")
        require(not self.nesterov or self.momentum > 0, f"{key}.nesterov", self.nesterov, "False where momentum is 0")
        require(0 <= self.clip < float("inf"), f"{key}.clip", self.clip, "0 for none, or a finite number above")
        most = min(self.momentum, 1 - self.momentum)
        fine = 0 <= self.delta < most or not self.delta
        require(fine, f"{key}.delta", self.delta, f"at least 0 and below {most:g} (of momentum {self.momentum:g})")


@dataclass(frozen=True)
class Schedule:
    """milestones and warmup_epochs in epochs."""

    name: str = "step"
    milestones: tuple[float, ...] = (150, 180, 210)
    gamma: float = 0.1
    warmup_epochs: float = 0.0

    def check(self, key: str) -> None:
        rising = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        require(rising, f"{key}.milestones", self.milestones, "rising epochs above 0")
        require(0 < self.gamma <= 1, f"{key}.gamma", self.gamma, "above 0, at most 1")
        require(
            0 <= self.warmup_epochs < float("inf"), f"{key}.warmup_epochs", self.warmup_epochs, "finite, at least 0"
        )


@dataclass(frozen=True)
class Init:
    """Where a phase starts. student: "" at random, or weights that are there already. method: "", or where members
    with the same labels have been trained."""

    student: str = ""
    method: str = ""

    def check(self, key: str) -> None:
        kind, _, rest = self.student.partition(":")
        ok = not self.student or kind in ("phase", "checkpoint", "weights") and rest
        require(
            ok, f"{key}.student", self.student, "empty, phase:NAME, phase:NAME/LABEL, checkpoint:DIR or weights:FILE"
        )
        kind, _, rest = self.method.partition(":")
        ok = not self.method or kind in ("phase", "checkpoint") and rest
        require(ok, f"{key}.method", self.method, "empty, phase:NAME or checkpoint:DIR")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One network trained from start to end. teacher: where it comes from, () for none. weights: a file to
    load in place of training, or "". trains: "all", or "method" where the network stays as it is. ema: decay of an
    average of the network over the steps, None for none. accumulate: into how many parts, one after the other, a batch
    is cut. remat: whether a backward pass computes the insides of blocks again in place of keeping them. drop_path:
    stochastic depth of a transformer, the rate of its last block."""

    name: str
    model: str
    weights: str = ""
    teacher: tuple[str, ...] = ()
    refine: tuple[Member, ...] = ()
    terms: tuple[Member, ...]
    init: Init = Init()
    trains: str = "all"
    ema: float | None = None
    epochs: int = 240
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    remat: bool = False
    drop_path: float = 0.0
    optim: Optim = Optim()
    schedule: Schedule = Schedule()

    def member_key(self, label: str) -> str:
        """The key of a refiner or term: config.NAME.refine.LABEL or config.NAME.terms.LABEL."""
        part = "refine" if label in {member.label for member in self.refine} else "terms"
        return f"config.{self.name}.{part}.{label}"

    def check(self, key: str) -> None:
        for origin in self.teacher:
            kind, _, rest = origin.partition(":")
            ok = origin == "ema" or kind in TEACHERS and rest
            accepted = ", ".join(f"{kind}:{what}" for kind, what in TEACHERS.items())
            accepted += " or ema (or several, joined by commas)"
            require(ok, f"{key}.teacher", origin, accepted)
            averaged = origin != "ema" or self.ema is not None
            require(averaged, f"{key}.teacher", origin, f"another one unless {key}.ema, its decay, is given")
        require(self.ema is None or 0 <= self.ema < 1, f"{key}.ema", self.ema, "at least 0 and below 1, or None")
        require(self.trains in ("all", "method"), f"{key}.trains", self.trains, "all or method")
        require(self.steps is None or self.steps > 0, f"{key}.steps", self.steps, "a number above 0, or None")
        require(self.steps is not None or self.epochs > 0, f"{key}.epochs", self.epochs, "a number above 0")
        once = not (self.weights and self.init.student)
        require(once, f"{key}.init.student", self.init.student, f"empty where {key}.weights is given")
        require(self.batch_size > 0, f"{key}.batch_size", self.batch_size, "a number above 0")
        require(self.accumulate > 0, f"{key}.accumulate", self.accumulate, "a number of parts, at least 1")
        require(0 <= self.drop_path < 1, f"{key}.drop_path", self.drop_path, "at least 0 and below 1")
        require(bool(self.terms), f"{key}.terms", {}, "at least one term")
        clash = sorted({m.label for m in self.refine} & {m.label for m in self.terms})
        require(not clash, f"{key}.terms", clash, "labelled otherwise than the refiners")
        taken = self.ema is not None and "ema" in {m.label for m in self.terms}
        require(not taken, f"{key}.terms", "ema", f"labelled otherwise where {key}.ema is given: so is the average")
