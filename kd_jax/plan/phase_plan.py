"""A phase, ready to run: what plan.build makes of every phase of a recipe."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import optax

from kd_jax import config
from kd_jax.data.resident import Split
from kd_jax.distributed.mesh import Layout
from kd_jax.engine.state import TrainState
from kd_jax.interop.loaded import Loaded
from kd_jax.models.network import Network
from kd_jax.plan.cacheable import is_cacheable
from kd_jax.plan.teachers import Teacher
from kd_jax.plan.trace import TracedSteps
from kd_jax.tasks import Task
from kd_jax.typing import AuxNetwork, Distiller, InitContext, Schedule, Variables, Vars, extra_views_of, reads_teachers


@dataclass(frozen=True)
class PhasePlan:
    """A phase, ready to run. Times are in steps.

    seeds: of the networks that it trains together. split: what the search of a policy holds out, and for how long.
    abstract: the state as shapes. traced: its steps. initial_vars, start: read, for a seed, what the members start
    with, and the network, or the part of it, that training starts from. weights: reads the network that is loaded in
    place of training. warning: a line that a person should read.
    why_not_cached: see `kd_jax.plan.cacheable`.
    """

    phase: config.Phase
    seeds: tuple[int, ...]
    task: Task
    layout: Layout
    network: Network
    teachers: tuple[Teacher, ...]
    distiller: Distiller
    schedule: Schedule
    tx: optax.GradientTransformation
    context: InitContext
    abstract: TrainState
    traced: TracedSteps
    steps: int
    steps_per_epoch: int
    eval_every: int
    save_every: int
    split: Split
    initial_vars: Callable[[int], dict[str, Vars]]
    warning: str | None = None
    why_not_cached: str | None = None
    weights: Callable[[], Loaded] | None = None
    start: Callable[[int], Loaded] | None = None

    @property
    def name(self) -> str:
        """The phase's name."""
        return self.phase.name

    @property
    def needs_teachers(self) -> bool:
        """Whether training reads the teachers' outputs."""
        return reads_teachers(self.distiller.needs)

    @property
    def cacheable_teachers(self) -> tuple[int, ...]:
        """Which of its teachers, counted from 0, a cache can stand in for while it trains."""
        if not self.needs_teachers or self.weights or self.why_not_cached:
            return ()
        return tuple(i for i, teacher in enumerate(self.teachers) if is_cacheable(teacher))

    @property
    def measures_teachers(self) -> bool:
        """Whether all of its teachers have outputs for test images."""
        return all(teacher.knows_tests for teacher in self.teachers)

    @property
    def extra_views(self) -> tuple[str, ...]:
        """The extra views of every batch that training reads."""
        return extra_views_of(self.distiller.needs)

    @property
    def batch_line(self) -> str:
        """One line: what a batch is made of, what sees less of it, and how many seeds see it. The learning rate is per
        batch, however it is cut."""
        phase, devices = self.phase, self.layout.count
        rows = phase.batch_size // devices // phase.accumulate
        parts = [f"{devices} device{'s' * (devices > 1)}"]
        parts += [f"{phase.accumulate} accumulated"] if phase.accumulate > 1 else []
        note = ""
        if phase.accumulate > 1 and self.abstract.stats["student"]:
            note = "; BatchNorm sees one accumulated part at a time"
        seeds = f"; seeds {self.seeds[0]} to {self.seeds[-1]} together" if len(self.seeds) > 1 else ""
        return f"batch {phase.batch_size} = {' x '.join([*parts, str(rows)])}{note}{seeds}"

    def of_seed(self, seed: int) -> str:
        """How a message names one of several seeds: "seed 5, ", or "" where there is one."""
        return f"seed {seed}, " if len(self.seeds) > 1 else ""

    @property
    def notes(self) -> list[str]:
        """Lines that a person should read before it trains."""
        notes = [f"note: {self.name}: {teacher.origin}: {teacher.note}" for teacher in self.teachers if teacher.note]
        return notes + ([self.warning] if self.warning else [])

    @property
    def blank_vars(self) -> dict[str, Vars]:
        """Zeros in place of what the members start with, where that is not trained yet."""
        return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), dict(self.context.initial_vars))

    def aux_networks(self, state: TrainState) -> dict[str, AuxNetwork]:
        """The networks that are trained beside the student: the members' by label, the student's average as "ema"."""
        networks = dict(self.distiller.networks(method_vars(state))) if self.distiller.networks else {}
        if self.phase.ema is not None:
            networks["ema"] = AuxNetwork(self.network.name, self.network.model, Variables(**state.ema))
        return networks


def method_vars(state: TrainState) -> Vars:
    """The variables of the members, without their policy."""
    return Vars(state.params["method"], state.stats["method"], {})
