"""Where a phase's rows go beside metrics.jsonl, live: TensorBoard's event files, Weights & Biases."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from types import ModuleType
from typing import Protocol

from etils import epath

from kd_jax import config
from kd_jax.distributed import processes
from kd_jax.typing import InputError

EXTRAS = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # extra of the install -> module


class Tracker(Protocol):
    """What takes the rows of a phase."""

    def add(self, row: dict) -> None:
        """Take a row of metrics.jsonl."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files in HOME/tensorboard/PHASE. Events after `step` of an earlier start are dropped."""

    def __init__(self, home: epath.Path, phase: str, step: int):
        folder = str(home / "tensorboard" / phase)
        self._writer = required("tensorboard").SummaryWriter(folder, purge_step=step + 1)

    def add(self, row: dict) -> None:
        for name, value in scalars(row):
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of a project of Weights & Biases for each phase; the phases of HOME are a group. A resumed phase goes
    on in the same run; a step that is taken a second time stands there twice. WANDB_MODE=offline writes files only."""

    def __init__(self, project: str, home: epath.Path, phase: str, tree: dict):
        identity = hashlib.sha256(f"{home}/{phase}".encode()).hexdigest()[:16]
        self._run = required("wandb").init(
            project=project, id=identity, resume="allow", group=home.name, name=f"{home.name}/{phase}", job_type=phase,
            dir=os.fspath(home), config={**tree, "phase": phase}, reinit="create_new",
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")

    def add(self, row: dict) -> None:
        self._run.log({**dict(scalars(row)), "step": row["step"], "epoch": row["epoch"]})

    def close(self) -> None:
        self._run.finish()


def trackers_of(recipe: config.Recipe, home: epath.Path, phase: str, step: int) -> list[Tracker]:
    """The trackers that a recipe asks for; of several processes the first one has them.

    Args:
      recipe: of the run.
      home: folder of the run.
      phase: its name.
      step: that it goes on from.
    """
    if not processes.is_main():
        return []
    trackers: list[Tracker] = []
    if recipe.log.tensorboard:
        trackers.append(TensorBoard(home, phase, step))
    if recipe.log.wandb:
        trackers.append(WandB(recipe.log.wandb, home, phase, asdict(recipe)))
    return trackers


def required(extra: str) -> ModuleType:
    """The module of a tracker.

    Raises:
      InputError: it is not installed.
    """
    name = EXTRAS[extra]
    try:
        return __import__(name)
    except ImportError as e:
        raise InputError(f"config.log.{extra}: needs {name}; pip install 'kd_jax[{extra}]'") from e


def scalars(row: dict) -> Iterator[tuple[str, float]]:
    """(name, value) of a row's numbers, those of its groups too, behind its split and seed."""
    seed = f"seed_{row['seed']}/" if "seed" in row else ""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{row['split']}/{seed}{name}/{inner}", v) for inner, v in value.items())
        elif isinstance(value, float):
            yield f"{row['split']}/{seed}{name}", value
