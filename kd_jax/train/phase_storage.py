"""A phase in its folder: what a checkpoint of it holds, restored, checked and saved."""

import statistics
from dataclasses import asdict, dataclass, field

import jax
import numpy as np
from etils import epath

from kd_jax import config
from kd_jax.distributed import processes
from kd_jax.engine.loop import LoopState
from kd_jax.engine.metrics import NonFiniteError
from kd_jax.engine.state import TrainState
from kd_jax.plan import PhasePlan
from kd_jax.storage import files
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.metrics_log import MetricsLog
from kd_jax.storage.progress import log_line
from kd_jax.train import machine, resumed, saved_state
from kd_jax.train.results import Results
from kd_jax.train.steps import steps_per_call
from kd_jax.typing import InputError, Variables


@dataclass
class Clock:
    """Seconds so far: in all, and spent on `steps` training steps (compilation left out)."""

    wall: float = 0.0
    training: float = 0.0
    steps: int = 0


@dataclass
class PhaseRecord:
    """What a phase knows beside its loop state; saved with it.

    results: of every seed. teacher: origin, digest and measured headline, or None. source_file: of weights that were
    loaded, not trained. warned: logs whose monitors have warned. cache_counts: of `CachedTeachers`.
    """

    results: tuple[Results, ...]
    clock: Clock = field(default_factory=Clock)
    warned: list[str] = field(default_factory=list)
    teacher: dict | None = None
    source_file: dict | None = None
    cache_counts: dict[str, int] = field(default_factory=dict)


class PhaseStorage:
    """The folder of a phase of a run."""

    def __init__(
        self, recipe: config.Recipe, plan: PhasePlan, folder: epath.Path, log: MetricsLog, data_identity: dict
    ):
        """data_identity: `Dataset.identity`."""
        self.recipe, self.plan, self.folder, self.log, self.data_identity = recipe, plan, folder, log, data_identity
        numbers = {"keep": recipe.checkpoint.keep, "best": recipe.checkpoint.best}
        self.machine = machine.fingerprint(plan.layout, steps_per_call(recipe, plan))
        self.checkpoints = Checkpoints(folder, **numbers, say=log_line)

    def outcome(self) -> dict | None:
        """The phase's entry in summary.json if it is done and its final state is whole."""
        outcome = processes.from_main(lambda: resumed.read_outcome(self.folder))
        if outcome is None:
            return None
        meta = self.checkpoints.good(outcome["steps"])
        if meta is not None:
            self._check_meta(meta)
            return outcome
        log_line(f"{self.plan.name}: the final state does not match its digest; resuming from the last good one")
        if processes.is_main():
            (self.folder / "DONE").unlink()
        return None

    def write_outcome(self, outcome: dict) -> None:
        """Mark the phase as done."""
        files.write_json(self.folder / "DONE", outcome)

    def restore(self, fresh: tuple, record: PhaseRecord) -> tuple[LoopState, ...] | None:
        """The newest good checkpoint as the loop state of every seed, or None.

        Args:
          fresh: metrics and health of a phase that has just begun.
          record: names the teacher; gets what the checkpoint holds.

        Raises:
          InputError: it is of other data or of another teacher.
        """
        plan, layout = self.plan, self.plan.layout
        like, count = layout.like(plan.abstract), len(plan.seeds)
        wanted = saved_state.split_seeds(plan.seeds, (like,) * count, (layout.like(fresh),) * count)
        restored = self.checkpoints.restore(wanted)
        if restored is None:
            return None
        items, meta = restored
        self._check_meta(meta)
        if meta["teacher"] != (record.teacher and record.teacher["digest"]):
            origin = ", ".join(plan.phase.teacher)
            raise InputError(f"{self.folder}: was trained with another teacher than {origin} now is; add --overwrite")
        record.clock, record.warned = Clock(**meta["clock"]), meta["warned"]
        record.cache_counts = meta.get("cache_counts", {})
        record.results = resumed.results_of(meta, self.log, plan.name, plan.task)
        log_line(f"{plan.name}: resumed at step {meta['step']} of {plan.steps}")
        changed = machine.difference(meta.get("machine", {}), self.machine)
        if changed:
            log_line(f"{plan.name}: {changed}: from here on the last bits may differ from those of an unbroken run")
        parts = (saved_state.of_seed(items, plan.seeds, seed) for seed in plan.seeds)
        joined = [saved_state.join(like, fresh, part, meta["step"]) for part in parts]
        return tuple(LoopState(state, *extra) for state, extra in joined)

    def save(self, loops: tuple[LoopState, ...], record: PhaseRecord) -> None:
        """Save a checkpoint.

        Raises:
          NonFiniteError: a parameter is not finite.
        """
        plan, states = self.plan, tuple(loop.state for loop in loops)
        step = int(states[0].step)
        for seed, state in zip(plan.seeds, states, strict=True):
            if not saved_state.is_finite(state.params):
                self.stop(f"{plan.of_seed(seed)}step {step}: a parameter is not finite")
        meta = {
            "phase": plan.name,
            "network": plan.network.describe(),
            "networks": self._aux_networks(states[0]),
            "teacher": record.teacher and record.teacher["digest"],
            "clock": asdict(record.clock),
            "warned": record.warned,
            "source": record.source_file,
            "data": self.data_identity,
            "machine": self.machine,
            **resumed.results_in_meta(plan.seeds, record.results),
            "cache_counts": record.cache_counts,
            "rows": self.log.counts(plan.name, step),
        }
        self.log.flush()
        tested = [results.at(step).get(plan.task.headline) for results in record.results]
        score = None if None in tested else statistics.fmean(tested)
        extras = tuple((loop.metrics, loop.health) for loop in loops)
        self.checkpoints.save(step, saved_state.split_seeds(plan.seeds, states, extras), meta, score)

    def stop_if_not_finite(self, loops: tuple[LoopState, ...]) -> None:
        """Raise NonFiniteError where the loss is not finite, naming the seed, the step and the term."""
        for seed, health in zip(self.plan.seeds, jax.device_get([loop.health for loop in loops]), strict=True):
            if health.step >= 0:
                bad = [name.removeprefix("terms/") for name, wrong in health.terms.items() if wrong]
                terms = ", ".join(bad) or "their sum"
                self.stop(f"{self.plan.of_seed(seed)}step {int(health.step)}: the loss is not finite (term: {terms})")

    def stop(self, what: str) -> None:
        """Raise NonFiniteError, and say what is kept."""
        steps = self.checkpoints.steps()
        rest = f"the last good checkpoint, step {steps[0]}, is kept" if steps else "no checkpoint was saved yet"
        skipped = f"; skipped {self.recipe.skip_nonfinite} before" if self.recipe.skip_nonfinite else ""
        raise NonFiniteError(f"phase {self.plan.name}, {what}{skipped}; {rest}")

    def _check_meta(self, meta: dict) -> None:
        plan, where = self.plan, self.checkpoints.where(meta["step"])
        resumed.check(meta, plan.name, self.data_identity, plan.network.describe(), self.log, where)

    def _aux_networks(self, state: TrainState) -> dict[str, dict]:
        """Of the networks that are saved beside the student: what they are and where in the checkpoint."""
        student = self.plan.network
        networks = {}
        for label, aux in self.plan.aux_networks(state).items():
            places = saved_state.names(state, aux.variables)
            networks[label] = {"network": student._replace(name=aux.name).describe(), **places._asdict()}
        return networks


def with_network(plan: PhasePlan, loop: LoopState, network: Variables) -> LoopState:
    """The loop state with a network, or with the parts of it that there are."""
    state, layout = loop.state, plan.layout
    network = layout.put(jax.tree.map(np.array, network), "s")  # a copy: the loop state is donated
    params = {**state.params, "student": {**state.params["student"], **network.params}}
    stats = {**state.stats, "student": {**state.stats["student"], **network.stats}}
    state = state._replace(params=params, stats=stats)
    if state.ema:
        average = jax.tree.map(np.array, layout.whole(state.student._asdict()))
        state = state._replace(ema=layout.put(average, "s"))
    return loop._replace(state=state)
