"""What a recipe is, as frozen dataclasses: every key, its type and its default stand here, those of a phase in
phase_records.py, and nowhere else. Each record checks its own values."""

from dataclasses import dataclass, field

from kd_jax.config.keys import require
from kd_jax.config.phase_records import Phase

PRECISIONS = ("float32", "bfloat16")
SYNTHETIC = {"classes": 100, "size": 32, "channels": 3, "train": 64, "test": 32}  # sizes of the made-up data set


@dataclass(frozen=True)
class Strong:
    """The strong view of methods that compare two: RandAugment's number of operations and their magnitude."""

    ops: int = 2
    magnitude: float = 10.0

    def check(self, key: str) -> None:
        require(self.ops >= 0, f"{key}.ops", self.ops, "a number of operations, at least 0")
        require(0 <= self.magnitude <= 10, f"{key}.magnitude", self.magnitude, "0 to 10")


@dataclass(frozen=True)
class Mix:
    """Batches mixed with themselves in reverse order. mixup, cutmix: the alpha of each, 0 for none. probability: of a
    batch to be mixed. switch: of a mixed batch to be cut, where there are both."""

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5

    @property
    def is_on(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def check(self, key: str) -> None:
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            require(0 <= alpha < float("inf"), f"{key}.{name}", alpha, "0 for none, or a finite number above")
        for name in ("probability", "switch"):
            require(0 <= getattr(self, name) <= 1, f"{key}.{name}", getattr(self, name), "0 to 1")


@dataclass(frozen=True)
class Erase:
    """A rectangle of some images filled with noise. probability: of an image, 0 for none. fill: noise of every "pixel",
    of every "channel", or a "constant", the mean. The rectangle has a share of the image from min_area to max_area, and
    a height over its width from min_aspect to 1 / min_aspect."""

    probability: float = 0.0
    fill: str = "pixel"
    min_area: float = 0.02
    max_area: float = 1 / 3
    min_aspect: float = 0.3

    def check(self, key: str) -> None:
        require(0 <= self.probability <= 1, f"{key}.probability", self.probability, "0 to 1")
        accepted = ("pixel", "channel", "constant")
        require(self.fill in accepted, f"{key}.fill", self.fill, "pixel, channel or constant")
        require(0 < self.max_area <= 1, f"{key}.max_area", self.max_area, "above 0, at most 1")
        fits = 0 < self.min_area <= self.max_area
        require(fits, f"{key}.min_area", self.min_area, f"above 0, at most max_area ({self.max_area:g})")
        require(0 < self.min_aspect <= 1, f"{key}.min_aspect", self.min_aspect, "above 0, at most 1")


@dataclass(frozen=True)
class Data:
    """seed None is the run's seed. augment "auto" is the data set's usual one. size: pixels a side, 0 as they are.
    test_fraction: held out where a folder has no test part. subset: training examples, 0 for all, below 1 a fraction,
    otherwise a count. stream: whether examples are read when a step needs them, in place of all before the first one.
    crop: pixels a side of random resized crops, 0 for none. decoder: what decodes and resizes images for these,
    "pillow" or "fast". labels: whether they are read; without, all that a network learns comes from its teacher.
    classes: of the networks without labels, 0 for as many as the data set has. workers: processes on each host that
    read a stream ahead, 0 for a thread of the run's own; None for as many as there are cores, or 0 where the images are
    in memory anyway."""

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
    labels: bool = True
    classes: int = 0
    strong: Strong = Strong()
    mix: Mix = Mix()
    erase: Erase = Erase()
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
        number = self.classes == 0 if self.labels else self.classes >= 0
        accepted = f"0 where {key}.labels is True" if self.labels else "a number of classes, or 0 for the data set's"
        require(number, f"{key}.classes", self.classes, accepted)
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
    """every: steps between training rows. tensorboard: also write its event files. wandb: project of Weights & Biases
    that gets the rows too, "" for none."""

    every: int = 50
    tensorboard: bool = False
    wandb: str = ""

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
    """A whole run. seeds: how many students every phase with a teacher trains, of the seeds from `seed` on.
    skip_nonfinite: updates a phase may leave out because they are not finite.
    teacher_check: whether a teacher near chance stops the run. precision: what networks compute in; parameters,
    statistics, losses and all that methods compute are float32 in any case. deterministic: whether a GPU's operations
    give the same bits every time; others do anyway. steps_per_call: how many training steps one compiled program takes
    where they are not due to be logged, measured or saved between; "auto" is 1 on a CPU, and as many as there are
    before the next that is due on other devices. teacher_cache: folder in which teachers' logits are kept by example
    and view, "" for none. teacher_cache_dtype: as what. teacher_cache_optional: whether a phase whose teachers
    cannot be cached runs them at every step; else it is refused."""

    name: str
    seed: int = 0
    seeds: int = 1
    skip_nonfinite: int = 0
    teacher_check: bool = True
    precision: str = "float32"
    deterministic: bool = False
    steps_per_call: str = "auto"
    teacher_cache: str = ""
    teacher_cache_dtype: str = "float32"
    teacher_cache_optional: bool = False
    phases: tuple[Phase, ...]
    data: Data = field(default_factory=Data)
    parallel: Parallel = Parallel()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    eval: Eval = Eval()

    def check(self, _: str) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")
        accepted = f"1 to {2**31 - self.seed} (seed is {self.seed})"
        require(1 <= self.seeds <= 2**31 - self.seed, "seeds", self.seeds, accepted)
        shared = self.seeds == 1 or any(len(self.seeds_of(phase)) > 1 for phase in self.phases)
        require(shared, "seeds", self.seeds, "1 where no phase that trains has a teacher: what seeds share is its pass")
        require(self.skip_nonfinite >= 0, "skip_nonfinite", self.skip_nonfinite, "a number of updates, at least 0")
        require(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))
        asked = self.steps_per_call
        counts = asked == "auto" or asked.isascii() and asked.isdigit() and int(asked) > 0
        require(counts, "steps_per_call", asked, "auto, or a number of steps as text, at least 1")
        several = asked not in ("auto", "1") and self.data.stream
        require(not several, "steps_per_call", asked, "auto or 1 where data.stream is True")
        local = "://" not in self.teacher_cache
        require(local, "teacher_cache", self.teacher_cache, "a folder of this machine, or empty for none")
        dtypes = ("float32", "float16") if self.teacher_cache else ("float32",)
        accepted = " or ".join(dtypes) + ("" if self.teacher_cache else " where config.teacher_cache is empty")
        require(self.teacher_cache_dtype in dtypes, "teacher_cache_dtype", self.teacher_cache_dtype, accepted)
        single = asked in ("auto", "1") or not self.teacher_cache
        require(single, "steps_per_call", asked, "auto or 1 where config.teacher_cache is given: its rows come by step")
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

    def seeds_of(self, phase: Phase) -> tuple[int, ...]:
        """The seeds whose networks a phase trains: several only where they share a teacher."""
        several = phase.teacher and not phase.weights
        return tuple(range(self.seed, self.seed + (self.seeds if several else 1)))

    @property
    def data_seed(self) -> int:
        return self.seed if self.data.seed is None else self.data.seed
