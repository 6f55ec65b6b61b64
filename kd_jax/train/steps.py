"""The training steps of a phase: one a call, or several by one compiled program.

Between steps that are due to be logged, measured or saved the host has nothing to do. One program then makes the
batches, asks the teachers and takes the steps, by a scan, and no device waits for Python.
"""

import jax
import numpy as np

from kd_jax import config
from kd_jax.data import resident
from kd_jax.engine.loop import LoopState
from kd_jax.plan import PhasePlan
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import CompiledPhase
from kd_jax.train.inputs import StepInputs, with_teachers
from kd_jax.train.teacher_cache import CachedTeachers
from kd_jax.typing import Array, Variables


def due_every(recipe: config.Recipe, plan: PhasePlan) -> tuple[int, int, int]:
    """After how many steps each a training row, a test row and a save are due."""
    return recipe.log.every, plan.eval_every, plan.save_every


def steps_per_call(recipe: config.Recipe, plan: PhasePlan) -> int:
    """How many steps a call takes where nothing is due between. At most as many as lie between two that are due."""
    most = min(*due_every(recipe, plan), plan.steps)
    if recipe.steps_per_call != "auto":
        return min(int(recipe.steps_per_call), most)
    # a loop over convolutions is many times slower on a CPU; rows of a stream or of a cache come from the host
    return 1 if jax.default_backend() == "cpu" or recipe.data.stream or recipe.teacher_cache else most


class Steps:
    """Takes the training steps of a phase, those of the policy included."""

    def __init__(
        self, recipe: config.Recipe, plan: PhasePlan, compiled: CompiledPhase, source: Resident | Streamed,
        teachers: tuple[Variables | None, ...], loops: tuple[LoopState, ...], keys: tuple[Array, ...],
        cache: CachedTeachers | None = None,
    ):  # fmt: skip
        """loops: of the seeds, as they start. keys: theirs for training. cache: see `StepInputs`."""
        self.plan, self.compiled, self.source, self.teachers, self.keys = plan, compiled, source, teachers, keys
        self.count, self.every = steps_per_call(recipe, plan), due_every(recipe, plan)
        self.inputs = StepInputs(plan, compiled.teach, source, teachers, cache)
        if self.count > 1:  # compiled here, not while a clock counts steps
            self.several = compiled.scan(self._one).lower(loops, *self._inputs(0)).compile()

    def take(self, loops: tuple[LoopState, ...], step: int) -> tuple[tuple[LoopState, ...], int]:
        """The loop states after some steps more, and their number in all: `count` more where none but the last is due,
        else one. So the steps after a resume are cut into calls as if nothing had happened."""
        if self.count > 1 and step >= self.plan.split.steps and step + self.count <= self._next_due(step):
            return self.several(loops, *self._inputs(step)), step + self.count
        compiled, states = self.compiled, tuple(loop.state for loop in loops)
        training = self.inputs.train(step, states)
        if step < self.plan.split.steps and step % self.plan.distiller.search.every == 0:
            loops = compiled.step(compiled.search, loops, (training, self.inputs.outer(step, states)), self.keys)
        loops = compiled.step(compiled.train, loops, training, self.keys)
        self.inputs.ahead(step + 1)  # before anything waits for the step that has just begun
        return loops, step + 1

    def _next_due(self, step: int) -> int:
        """The first step after this one that is due."""
        return min(self.plan.steps, *((step // n + 1) * n for n in self.every))

    def _inputs(self, step: int) -> tuple:
        """What the program of several steps takes beside the loop state: small but for what is on the devices."""
        how = {"n": self.source.sizes["train"], "batch_size": self.plan.phase.batch_size, "split": self.plan.split}
        pairs = [resident.train_index(self.source.seed, step + i, **how) for i in range(self.count)]
        epochs, indices = (np.stack(parts).astype(np.int32) for parts in zip(*pairs, strict=True))
        data = self.source.arrays["train"], self.source.key
        return self.teachers, data, self.plan.layout.put((indices, epochs)), self.keys

    def _one(
        self, loops: tuple[LoopState, ...], teachers: tuple, data: tuple, row: tuple[Array, Array],
        keys: tuple[Array, ...],
    ) -> tuple[LoopState, ...]:  # fmt: skip
        """A step, of which `row` is the examples' indices and the epoch; pure."""
        arrays, data_key = data
        batch = self.source.gather(arrays, data_key, *row, self.plan.extra_views)
        states = tuple(loop.state for loop in loops)
        inputs = with_teachers(self.plan, self.compiled.teach, teachers, states, batch)
        return self.compiled.step(self.plan.traced.train_again, loops, inputs, keys)
