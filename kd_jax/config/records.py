"""What a recipe is, as frozen dataclasses: every key, its type and its default stand here and nowhere else. Each record
checks its own values."""

from dataclasses import dataclass, field

from kd_jax.config.keys import require

PRECISIONS = ("float32", "bfloat16")
TEACHERS = {  # kinds of teachers, and what stands behind the colon
    "phase": "NAME", "checkpoint": "DIR", "weights": "FILE", "python": "MODULE:FUNCTION", "logits": "FILE.npz",
}  # fmt: skip
SYNTHETIC = {"classes": 100, "size": 32, "channels": 3, "train": 64, "test": 32}  # sizes of the made-up data set


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
    """Learning rate per global batch; momentum is AdamW's beta_1. delta: of name="dot", by how much the momentum of the
    task's gradient is lower, and that of all other terms higher; 0 is plain SGD. clip: the largest norm of the gradient
    of all that the loss trains, before weight decay and momentum; 0 leaves it as it is. The plan checks the name, and
    what that optimiser takes."""

    name: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    delta: float = 0.0
    clip: float = 0.0

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
    is cut. remat: whether a backward pass computes the insides of blocks again in place of keeping them."""

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
    optim: Optim = Optim()
    schedule: Schedule = Schedule()

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
        require(bool(self.terms), f"{key}.terms", {}, "at least one term")
        clash = sorted({m.label for m in self.refine} & {m.label for m in self.terms})
        require(not clash, f"{key}.terms", clash, "labelled otherwise than the refiners")
        taken = self.ema is not None and "ema" in {m.label for m in self.terms}
        require(not taken, f"{key}.terms", "ema", f"labelled otherwise where {key}.ema is given: so is the average")


@dataclass(frozen=True)
class Strong:
    """The strong view of methods that compare two: RandAugment's number of operations and their magnitude."""

    ops: int = 2
    magnitude: float = 10.0

    def check(self, key: str) -> None:
        require(self.ops >= 0, f"{key}.ops", self.ops, "a number of operations, at least 0")
        require(0 <= self.magnitude <= 10, f"{key}.magnitude", self.magnitude, "0 to 10")


@dataclass(frozen=True)
class Data:
    """seed None is the run's seed. augment "auto" is the data set's usual one. size: pixels a side, 0 as
    they are. test_fraction: held out where a folder has no test part. subset: training examples, 0 for
    all, below 1 a fraction, otherwise a count. stream: whether examples are read when a step needs them, in place of
    all before the first one. crop: pixels a side of random resized crops, 0 for none. decoder: what decodes and resizes
    images for these, "pillow" or "fast". workers: processes on each host that read a stream ahead, 0 for a thread of
    the run's own; None for as many as there are cores, or 0 where the images are in memory anyway."""

    name: str = "cifar100"
    dir: str = ""
    seed: int | None = None
    augment: str = "auto"
    size: int = 0
    stream: bool = False
    crop: int = 0
    decoder: str = "pillow"
    workers: int | None = None
    test_fraction: float = 0.2
    subset: float = 0.0
    strong: Strong = Strong()
    synthetic: dict[str, int] = field(default_factory=lambda: dict(SYNTHETIC))

    def check(self, key: str) -> None:
        accepted = ("auto", "crop_flip", "crop", "none")
        require(self.augment in accepted, f"{key}.augment", self.augment, "auto, crop_flip, crop or none")
        require(self.seed is None or self.seed >= 0, f"{key}.seed", self.seed, "at least 0, or None")
        require(self.size >= 0, f"{key}.size", self.size, "pixels a side, or 0 for the images as they are")
        require(self.crop >= 0, f"{key}.crop", self.crop, "pixels a side, or 0 for none")
        require(self.stream or not self.crop, f"{key}.crop", self.crop, f"0 unless {key}.stream is True")
        decoders = ("pillow", "fast") if self.crop else ("pillow",)
        accepted = f"{' or '.join(decoders)} where {key}.crop is {self.crop}"
        require(self.decoder in decoders, f"{key}.decoder", self.decoder, accepted)
        plain = self.augment == "auto" or not self.crop
        require(plain, f"{key}.augment", self.augment, f"auto where {key}.crop={self.crop} augments")
        require(self.workers is None or self.workers >= 0, f"{key}.workers", self.workers, "at least 0, or None")
        require(0 < self.test_fraction < 1, f"{key}.test_fraction", self.test_fraction, "above 0 and below 1")
        part = 0 <= self.subset < 1 or self.subset.is_integer() and self.subset > 0
        require(part, f"{key}.subset", self.subset, "0 for all, a fraction below 1, or a whole number")


@dataclass(frozen=True)
class Parallel:
    """See kd_jax.distributed.mesh. mesh: () for all devices, (n,) for the first n, or (d, f) for the first d times f,
    over whose second axis parameters are split."""

    scope: str = "global"
    mesh: tuple[int, ...] = ()

    def check(self, key: str) -> None:
        require(self.scope in ("global", "device"), f"{key}.scope", self.scope, "global or device")
        ok = len(self.mesh) <= 2 and all(n > 0 for n in self.mesh)
        require(
            ok, f"{key}.mesh", self.mesh, "() for all devices, (N,) for N of them or (DATA, FSDP) for their product"
        )
        one = self.scope == "global" or self.mesh[1:] in ((), (1,))
        require(one, f"{key}.scope", self.scope, f"global where {key}.mesh splits parameters {self.mesh}")


@dataclass(frozen=True)
class Checkpoint:
    """every: steps between saves, 0 for once an epoch. keep: how many of a phase's last ones stay.
    best: how many stay besides, those with the highest top-1 on the test set."""

    every: int = 0
    keep: int = 2
    best: int = 0

    def check(self, key: str) -> None:
        require(self.every >= 0, f"{key}.every", self.every, "steps, or 0 for once an epoch")
        require(self.keep > 0, f"{key}.keep", self.keep, "a number above 0")
        require(self.best >= 0, f"{key}.best", self.best, "a number, at least 0")


@dataclass(frozen=True)
class Log:
    """every: steps between training rows. tensorboard: also write its event files."""

    every: int = 50
    tensorboard: bool = False

    def check(self, key: str) -> None:
        require(self.every > 0, f"{key}.every", self.every, "a number of steps above 0")


@dataclass(frozen=True)
class Eval:
    """every: epochs between evaluations; the last step is always evaluated."""

    every: int = 1

    def check(self, key: str) -> None:
        require(self.every > 0, f"{key}.every", self.every, "a number of epochs above 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run. skip_nonfinite: updates a phase may leave out because they are not finite.
    teacher_check: whether a teacher near chance stops the run. precision: what networks compute in; parameters,
    statistics, losses and all that methods compute are float32 in any case. teacher_cache: folder in which teachers'
    logits are kept by example and view, "" for none. teacher_cache_dtype: as what."""

    name: str
    seed: int = 0
    skip_nonfinite: int = 0
    teacher_check: bool = True
    precision: str = "float32"
    teacher_cache: str = ""
    teacher_cache_dtype: str = "float32"
    phases: tuple[Phase, ...]
    data: Data = field(default_factory=Data)
    parallel: Parallel = Parallel()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    eval: Eval = Eval()

    def check(self, _: str) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")
        require(self.skip_nonfinite >= 0, "skip_nonfinite", self.skip_nonfinite, "a number of updates, at least 0")
        require(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))
        local = "://" not in self.teacher_cache
        require(local, "teacher_cache", self.teacher_cache, "a folder of this machine, or empty for none")
        dtypes = ("float32", "float16") if self.teacher_cache else ("float32",)
        accepted = " or ".join(dtypes) + ("" if self.teacher_cache else " where config.teacher_cache is empty")
        require(self.teacher_cache_dtype in dtypes, "teacher_cache_dtype", self.teacher_cache_dtype, accepted)
        earlier_names = []
        for phase in self.phases:
            named = [(f"{phase.name}.teacher", origin, origin[6:]) for origin in phase.teacher]
            starts = {"student": phase.init.student, "method": phase.init.method}
            named += [(f"{phase.name}.init.{part}", origin, origin[6:]) for part, origin in starts.items()]
            for key, origin, where in named:
                name = where.partition("/")[0]
                if origin.startswith("phase:"):
                    earlier = f"an earlier phase ({', '.join(earlier_names) or 'there is none'})"
                    require(name in earlier_names, key, origin, f"phase:NAME of {earlier}")
            earlier_names.append(phase.name)

    @property
    def data_seed(self) -> int:
        return self.seed if self.data.seed is None else self.data.seed
