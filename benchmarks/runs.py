"""Whole runs, as launch/train.py makes them, timed from the end of their first epoch to the end of their last."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from worker import NotAvailable


class Size(NamedTuple):
    """pair: TEACHER,STUDENT. batch, image, examples: images of a step, pixels a side, images of an epoch. epochs: at
    least 2; the first one is not timed."""

    pair: str
    batch: int
    image: int
    examples: int
    epochs: int

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.examples // self.batch


class Timed(NamedTuple):
    """seconds: of a step, what came between the steps included. phase: the entry in summary.json."""

    seconds: float
    phase: dict


def flags(parser, **defaults) -> None:
    """The flags of a Size, and --rounds."""
    sizes = {"pair": "resnet32x4,resnet8x4", "batch": 64, "image": 32, "examples": 1280, "epochs": 3, "rounds": 3}
    for name, default in (sizes | defaults).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)


def size_of(flags) -> Size:
    return Size(*(getattr(flags, name) for name in Size._fields))


def recipe(size: Size, method: str, teacher: str, **keys) -> dict:
    """The configuration of a run with one phase, the student's.

    Args:
      size: of the run.
      method: as configs/compose.py spells it; "" is the student alone.
      teacher: as `config.student.teacher`.
      **keys: of the recipe, a__b=1 for a.b.

    Raises:
      NotAvailable: a key that this version does not have.
    """
    from kd_jax import recipes

    config = import_module("configs.compose").get_config(f"{method or 'kd'},{size.pair}")
    config.student.teacher = teacher
    if not method:
        config.student.terms = recipes.Config({"ce": recipes.member("ce")})
        config.student.teacher = ""
    config.phases, config.teacher_check = ("student",), False
    config.student.epochs, config.student.batch_size = size.epochs, size.batch
    config.data.name = "synthetic"
    config.data.synthetic.update({"size": size.image, "train": size.examples, "test": size.batch})
    config.log.every, config.eval.every, config.checkpoint.every = size.steps, 10**6, 10**9
    config = config.to_dict()
    for key, value in keys.items():
        *path, last = key.split("__")
        at = config
        for name in path:
            at = at[name]
        if last not in at:
            raise NotAvailable(f"this version has no config.{key.replace('__', '.')}")
        at[last] = value
    return config


def trained_teacher(size: Size, folder: Path) -> str:
    """A teacher after one step, for `config.student.teacher`: it costs what a good one costs."""
    from kd_jax.train import run

    config = import_module("configs.compose").get_config(f"kd,{size.pair}")
    config.phases, config.teacher.steps, config.teacher.batch_size = ("teacher",), 1, size.batch
    config.data.name = "synthetic"
    config.data.synthetic.update({"size": size.image, "train": size.examples, "test": size.batch})
    run.run(config.to_dict(), str(folder))
    return f"checkpoint:{folder / 'teacher'}"


def timed_run(config: dict, steps: int, folder: Path | None = None) -> Timed:
    """Run a recipe to its end in a folder that is thrown away, or in this one.

    Args:
      config: of `recipe`.
      steps: of an epoch, at whose ends the clock is read.
      folder: of the run.
    """
    from kd_jax.train import run

    with tempfile.TemporaryDirectory() as scratch, _marks() as marks:
        summary = run.run(config, str(folder or Path(scratch) / "run"))
    epochs = len(marks) - 1
    return Timed((marks[-1] - marks[0]) / (epochs * steps), summary["phases"]["student"])


@contextmanager
def _marks() -> Iterator[list[float]]:
    """When the run has waited for the device: at every log row, evaluation and save."""
    from kd_jax.train.phase_storage import PhaseStorage

    marks, check = [], PhaseStorage.stop_if_not_finite

    def checked(*args, **kwargs):
        result = check(*args, **kwargs)
        marks.append(time.monotonic())
        return result

    PhaseStorage.stop_if_not_finite = checked
    try:
        yield marks
    finally:
        PhaseStorage.stop_if_not_finite = check


def available(notes: list[str], name: str, make, *args, **kwargs):
    """What `make` gives; None, and a note, where this version has not what it needs."""
    try:
        return make(*args, **kwargs)
    except NotAvailable as e:
        notes.append(f"{name}: not available ({e})")
        return None
