"""One phase of a run: restore or start, train, measure, save, until its last step."""

import time
from contextlib import suppress

import jax

from kd_jax import config, models
from kd_jax.distributed import processes
from kd_jax.distributed.preemption import Interrupted
from kd_jax.engine.loop import LoopState
from kd_jax.methods.base import fold
from kd_jax.plan import PhasePlan
from kd_jax.storage.progress import NOTHING_LATER, Later, Progress, log_line
from kd_jax.storage.trackers import trackers_of
from kd_jax.storage.workdir import Workdir
from kd_jax.train import report
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.class_cka import class_cka
from kd_jax.train.compiled import CompiledPhase
from kd_jax.train.evaluator import Evaluator
from kd_jax.train.inputs import load_teachers, resolve_teachers
from kd_jax.train.phase_storage import PhaseRecord, PhaseStorage, with_network
from kd_jax.train.results import Results
from kd_jax.train.rows import Rows, describe
from kd_jax.train.steps import Steps, due_every
from kd_jax.train.teacher_cache import CachedTeachers, open_cache
from kd_jax.train.teacher_check import check_teacher
from kd_jax.typing import Variables


class PhaseRun:
    """A phase of a run in its folder. `result` does all there is to do."""

    def __init__(
        self, recipe: config.Recipe, plan: PhasePlan, home: Workdir, source: Resident | Streamed, log, stop,
        data_identity: dict,
    ):  # fmt: skip
        """stop: asked after every step, with it, for the number of a signal that asks to stop, or None.
        data_identity: `Dataset.identity`."""
        self.recipe, self.plan, self.source, self.log, self.stop = recipe, plan, source, log, stop
        self.name, self.layout = plan.name, plan.layout
        self.folder = home.path / self.name
        self.storage = PhaseStorage(recipe, plan, self.folder, log, data_identity)
        self.record, self.trained = PhaseRecord(tuple(Results() for _ in plan.seeds)), False
        self.rows = Rows(plan, log, self.record)
        self.cache: CachedTeachers | None = None

    def result(self, later: Later = NOTHING_LATER) -> dict:
        """The phase's entry in summary.json; trains whatever is not trained yet. later: what the run does then."""
        try:
            outcome = self.storage.outcome()
            if outcome is None:
                outcome = self._train(later) if self.plan.weights is None else self._take_weights()
                self.trained = True
                self.storage.write_outcome(outcome)
        except BaseException:
            self._close_cache()
            if processes.count() == 1:  # several would wait for each other
                with suppress(Exception):  # the first error counts
                    self.storage.checkpoints.close()  # a save that is under way ends
            raise
        self._close_cache()
        self.storage.checkpoints.close()
        return outcome

    def _begin(self) -> tuple[CompiledPhase, tuple[Variables | None, ...], Evaluator]:
        """The programs, the teachers, and the evaluator, which measures the teachers at once."""
        compiled, plan = CompiledPhase(self.plan), self.plan
        teachers, digests = load_teachers(plan)
        if teachers:
            about = {"origin": ",".join(plan.phase.teacher), "digest": ",".join(digests)}
            self.record.teacher = {**about, plan.task.headline: None}
        evaluator = Evaluator(self.layout, self.source, plan.network, plan.phase.batch_size, plan.task)
        how = {"source": self.source, "data_identity": self.storage.data_identity}
        self.cache = open_cache(self.recipe, plan, compiled.teach, teachers, digests, **how)
        teach = self.cache or compiled.teach
        measured = evaluator.measure_teachers(teach, teachers) if plan.measures_teachers else None
        if measured is not None:
            self.record.teacher[plan.task.headline] = measured.get(plan.task.headline)
            metrics = f", {describe(plan.task, measured)}" if measured else ""
            log_line(f"{self.name}: teacher {self.record.teacher['origin']}{metrics}")
            if self.recipe.teacher_check and measured:
                check_teacher(plan, self.record.teacher["origin"], measured, self.source.sizes["test"])
        return compiled, teachers, evaluator

    def _take_weights(self) -> dict:
        """Weights from a file in place of training: measured and saved as if they were trained, at step 0."""
        began = time.monotonic()
        compiled, teachers, evaluator = self._begin()
        (loop,) = self._start(compiled, teachers)
        if self.storage.checkpoints.steps():
            self.record.source_file = self.storage.checkpoints.read(step=0)[1]["source"]
        else:
            loaded = self.plan.weights()
            loop, self.record.source_file = with_network(self.plan, loop, loaded.variables), loaded.source
        self.log.rewind(self.name, -1)
        (measured,) = self._measure(evaluator, (loop,))
        self.rows.add_test((measured,), 0)
        log_line(f"{self.name}: weights of {self.record.source_file['file']}, {describe(self.plan.task, measured)}")
        self.record.clock.wall += time.monotonic() - began
        if not self.storage.checkpoints.steps():
            self.storage.save((loop,), self.record)
        self.storage.checkpoints.wait()
        return self._outcome((loop,))

    def _train(self, later: Later) -> dict:
        plan, began = self.plan, time.monotonic()
        log_line(f"{plan.name}: {plan.batch_line}")
        compiled, teachers, evaluator = self._begin()
        loops, keys = self._start(compiled, teachers), tuple(self._key("train", seed) for seed in plan.seeds)
        counts = self.record.cache_counts  # of the process that this one goes on for
        step, wall, mark = int(loops[0].state.step), self.record.clock.wall, None
        self.log.rewind(self.name, step)
        self.log.track(trackers_of(self.recipe, self.folder.parent, self.name, step))
        steps = Steps(self.recipe, plan, compiled, self.source, teachers, loops, keys, self.cache)
        with Progress(self.name, step, plan.steps, later) as progress:
            while step < plan.steps:
                loops, step = steps.take(loops, step)
                if mark is None:  # the first call loads programs: wait for it, then start to count
                    jax.block_until_ready(loops)
                    mark = (time.monotonic(), step)
                due, signal = self._due(step), self.stop(step)
                if not any(due) and signal is None:
                    continue
                self.storage.stop_if_not_finite(loops)
                self.record.clock.training += time.monotonic() - mark[0]
                self.record.clock.steps += step - mark[1]
                row, test, save = due
                if row:
                    self.rows.add_train(loops, step, progress)
                    loops = tuple(loop._replace(metrics=compiled.no_metrics()) for loop in loops)
                if test:
                    self.rows.add_test(self._measure(evaluator, loops), step, progress)
                if save or signal is not None:
                    self.record.clock.wall = wall + time.monotonic() - began
                    self.record.cache_counts = self.cache.counts_since(counts) if self.cache else {}
                    self.storage.save(loops, self.record)
                if signal is not None:
                    self.storage.checkpoints.wait()
                    raise Interrupted(signal, f"phase {self.name}, step {step} of {plan.steps}")
                mark = (time.monotonic(), step)
            if not self.record.results[0].at(plan.steps):  # the last checkpoint is of a version that did not keep them
                self.rows.add_test(self._measure(evaluator, loops), plan.steps, progress)
        self.storage.checkpoints.wait()
        self._draw(compiled, teachers, loops[0])
        self.log.in_order([p.name for p in self.recipe.phases])
        return self._outcome(loops)

    def _close_cache(self) -> None:
        if self.cache:
            self.cache.close()

    def _key(self, name: str, seed: int) -> jax.Array:
        """The key of a seed for one purpose."""
        return self.layout.put(fold(jax.random.key(seed), name))

    def _measure(self, evaluator: Evaluator, loops: tuple[LoopState, ...]) -> tuple[dict, ...]:
        """The test metrics of every seed."""
        return tuple(evaluator.measure(self.plan, loop.state) for loop in loops)

    def _draw(self, compiled: CompiledPhase, teachers: tuple[Variables | None, ...], loop: LoopState) -> None:
        """maps.png: what the method sees where in the first test images, if it says; of the first seed."""
        if self.plan.distiller.visualizations and self.plan.measures_teachers:
            batch = next(iter(self.source.test(self.plan.phase.batch_size)))
            now = resolve_teachers(teachers, loop.state)
            outputs = compiled.teach(now, batch, "test") if self.plan.needs_teachers else ()
            maps, images = self.layout.whole((compiled.visualizations(loop.state, outputs, batch), batch["image"]))
            if processes.is_main():
                (self.folder / "maps.png").write_bytes(report.overlays(images, maps))

    def _due(self, step: int) -> tuple[bool, bool, bool]:
        """Whether a training row, a test row and a save fall on this step; all do on the last."""
        return tuple(step == self.plan.steps or step % n == 0 for n in due_every(self.recipe, self.plan))

    def _start(self, compiled: CompiledPhase, teachers: tuple[Variables | None, ...]) -> tuple[LoopState, ...]:
        """The newest good checkpoint, or the beginning, of every seed."""
        restored = self.storage.restore(compiled.fresh(), self.record)
        if restored:
            return restored
        alike = class_cka(self.plan, self.source, teachers)
        return tuple(self._start_seed(compiled, teachers, seed, alike) for seed in self.plan.seeds)

    def _start_seed(
        self, compiled: CompiledPhase, teachers: tuple[Variables | None, ...], seed: int, alike: jax.Array | None
    ) -> LoopState:
        plan = self.plan
        loop = compiled.loop_state(compiled.init(self._key("init", seed), teachers, plan.initial_vars(seed), alike))
        return with_network(plan, loop, plan.start(seed).variables) if plan.start else loop

    def _outcome(self, loops: tuple[LoopState, ...]) -> dict:
        clock, state = self.record.clock, loops[0].state
        seconds = clock.training / clock.steps if clock.steps else None
        return {
            "model": self.plan.phase.model,
            "params": models.count_parameters(state.params["student"]),
            "method_params": models.count_parameters(state.params["method"]),
            "steps": self.plan.steps,
            "skipped_updates": sum(int(loop.health.skipped) for loop in loops),
            **self.rows.results(),
            "networks": self.rows.network_results(self.plan.aux_networks(state)),
            "teacher": self.record.teacher,
            "weights": self.record.source_file,
            "ms_per_step": seconds and seconds * 1000,
            "images_per_second": seconds and self.plan.phase.batch_size / seconds,
            "wall_seconds": clock.wall,
            "teacher_cache": self.cache and self.cache.summary(self.record.cache_counts),
        }
