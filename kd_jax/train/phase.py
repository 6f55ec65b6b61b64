"""One phase of a run: restore or start, train, measure, save, until its last step."""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass

import jax
import numpy as np

from kd_jax import config, models
from kd_jax.distributed import processes
from kd_jax.distributed.preemption import Interrupted
from kd_jax.engine.loop import LoopState
from kd_jax.engine.metrics import NonFiniteError
from kd_jax.engine.state import TrainState
from kd_jax.methods.base import fold
from kd_jax.plan import PhasePlan
from kd_jax.storage import files
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.progress import Progress, log_line
from kd_jax.storage.workdir import Workdir
from kd_jax.train import report, resumed, saved_state
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import CompiledPhase
from kd_jax.train.evaluator import Evaluator
from kd_jax.train.inputs import StepInputs, resolve_teachers
from kd_jax.train.rows import Rows, describe
from kd_jax.train.teacher_check import check_teacher
from kd_jax.typing import InputError, Variables


@dataclass
class Clock:
    """Seconds so far: in all, and spent on `steps` training steps (compilation left out)."""

    wall: float = 0.0
    training: float = 0.0
    steps: int = 0


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
        kept = {"keep": recipe.checkpoint.keep, "best": recipe.checkpoint.best}
        self.checkpoints = Checkpoints(self.folder, **kept, say=log_line)
        self.rows, self.clock, self.teacher, self.trained = Rows(plan, log), Clock(), None, False
        self.data_identity = data_identity
        self.source_file = None  # of weights that were loaded, not trained

    def finished(self) -> dict | None:
        """The phase's result if it is done and its final state is whole."""
        done = self.folder / "DONE"
        outcome = processes.from_main(lambda: files.read_json(done) if done.exists() else None)
        if outcome is None:
            return None
        meta = self.checkpoints.good(outcome["steps"])
        if meta is not None:
            self._check_meta(meta)
            return outcome
        log_line(f"{self.name}: the final state does not match its digest; resuming from the last good one")
        if processes.is_main():
            done.unlink()
        return None

    def _check_meta(self, meta: dict) -> None:
        resumed.check_data(meta, self.data_identity, self.checkpoints.where(meta["step"]))
        resumed.report_lost_rows(meta, self.log, self.name)

    def result(self) -> dict:
        """The phase's entry in summary.json; trains whatever is not trained yet."""
        try:
            outcome = self.finished()
            if outcome is None:
                outcome = self._train() if self.plan.weights is None else self._take_weights()
                self.trained = True
                files.write_json(self.folder / "DONE", outcome)
        except BaseException:
            if processes.count() == 1:  # several would wait for each other
                with suppress(Exception):  # the first error counts
                    self.checkpoints.close()  # a save that is under way ends
            raise
        self.checkpoints.close()
        return outcome

    def _begin(self) -> tuple[CompiledPhase, tuple[Variables | None, ...], Evaluator]:
        """The programs, the teachers, and the evaluator, which measures the teachers at once."""
        compiled, plan = CompiledPhase(self.plan), self.plan
        teachers = self._load_teachers()
        evaluator = Evaluator(self.layout, self.source, plan.network, plan.phase.batch_size, plan.task)
        measured = evaluator.measure_teachers(compiled.teach, teachers)
        if measured:
            self.teacher[plan.task.headline] = measured[plan.task.headline]
            log_line(f"{self.name}: teacher {self.teacher['origin']}, {describe(plan.task, measured)}")
            if self.recipe.teacher_check:
                check_teacher(plan, self.teacher["origin"], measured, self.source.sizes["test"])
        return compiled, teachers, evaluator

    def _take_weights(self) -> dict:
        """Weights from a file in place of training: measured and saved as if they were trained, at step 0."""
        began = time.monotonic()
        compiled, teachers, evaluator = self._begin()
        loop = self._start(compiled, teachers)
        if self.checkpoints.steps():
            self.source_file = self.checkpoints.read(step=0)[1]["source"]
        else:
            loaded = self.plan.weights()
            loop, self.source_file = self._with_network(loop, loaded.variables), loaded.source
        self.log.rewind(self.name, -1)
        measured = evaluator.measure(self.plan, loop.state)
        self.rows.add_test(measured, 0)
        log_line(f"{self.name}: weights of {self.source_file['file']}, {describe(self.plan.task, measured)}")
        self.clock.wall += time.monotonic() - began
        if not self.checkpoints.steps():
            self._save(loop)
        self.checkpoints.wait()
        return self._outcome(loop)

    def _train(self) -> dict:
        plan, began = self.plan, time.monotonic()
        log_line(f"{plan.name}: {plan.batch_line}")
        compiled, teachers, evaluator = self._begin()
        loop, key = self._start(compiled, teachers), self._key("train")
        step, wall, mark = int(loop.state.step), self.clock.wall, None
        self.log.rewind(self.name, step)
        self.log.mirror(self.folder.parent / "tensorboard" if self.recipe.log.tensorboard else None, self.name, step)
        progress = Progress(self.name, step, plan.steps)
        inputs = StepInputs(plan, compiled.teach, self.source, teachers)
        while step < plan.steps:
            teacher_outputs, batch = inputs.train(step, loop.state)
            if step < plan.split.steps and step % plan.distiller.search.every == 0:
                loop = compiled.search(loop, (teacher_outputs, batch), inputs.outer(step, loop.state), key)
            loop = compiled.train(loop, teacher_outputs, batch, key)
            step += 1
            inputs.ahead(step)  # before anything waits for the step that has just begun
            if mark is None:  # the first step loads programs: wait for it, then start to count
                jax.block_until_ready(loop)
                mark = (time.monotonic(), step)
            due, signal = self._due(step), self.stop(step)
            if not any(due) and signal is None:
                continue
            self._stop_if_not_finite(loop)
            self.clock.training += time.monotonic() - mark[0]
            self.clock.steps += step - mark[1]
            row, test, save = due
            if row:
                self.rows.add_train(loop, step, progress)
                loop = loop._replace(metrics=compiled.no_metrics())
            if test:
                self.rows.add_test(evaluator.measure(plan, loop.state), step, progress)
            if save or signal is not None:
                self.clock.wall = wall + time.monotonic() - began
                self._save(loop)
            if signal is not None:
                self.checkpoints.wait()
                raise Interrupted(signal, f"phase {self.name}, step {step} of {plan.steps}")
            mark = (time.monotonic(), step)
        if not self.rows.results.at(plan.steps):  # the last checkpoint is of a version that did not keep them
            self.rows.add_test(evaluator.measure(plan, loop.state), plan.steps, progress)
        progress.close()
        self.checkpoints.wait()
        self._draw(compiled, teachers, loop)
        self.log.in_order([p.name for p in self.recipe.phases])
        return self._outcome(loop)

    def _key(self, name: str) -> jax.Array:
        """The run's key for one purpose."""
        return self.layout.put(fold(jax.random.key(self.recipe.seed), name))

    def _draw(self, compiled: CompiledPhase, teachers: tuple[Variables | None, ...], loop: LoopState) -> None:
        """maps.png: what the method sees where in the first test images, if it says."""
        if self.plan.distiller.visualizations:
            batch = next(iter(self.source.test(self.plan.phase.batch_size)))
            now = resolve_teachers(teachers, loop.state)
            outputs = compiled.teach(now, batch["image"]) if self.plan.needs_teachers else ()
            maps, images = self.layout.whole((compiled.visualizations(loop.state, outputs, batch), batch["image"]))
            if processes.is_main():
                (self.folder / "maps.png").write_bytes(report.overlays(images, maps))

    def _due(self, step: int) -> tuple[bool, bool, bool]:
        """Whether a training row, a test row and a save fall on this step; all do on the last."""
        every = (self.recipe.log.every, self.plan.eval_every, self.plan.save_every)
        return tuple(step == self.plan.steps or step % n == 0 for n in every)

    def _load_teachers(self) -> tuple[Variables | None, ...]:
        """The teachers' variables on the devices; notes where they came from."""
        loaded, digests = [], []
        for teacher in self.plan.teachers:
            read = teacher.load() if teacher.load else None
            loaded.append(read and self.layout.put(read.variables, "s"))
            digests.append(read.digest if read else teacher.origin)
        if loaded:
            headline = {self.plan.task.headline: None}
            self.teacher = {"origin": ",".join(self.plan.phase.teacher), "digest": ",".join(digests), **headline}
        return tuple(loaded)

    def _start(self, compiled: CompiledPhase, teachers: tuple[Variables | None, ...]) -> LoopState:
        """The newest good checkpoint, or the beginning."""
        fresh = compiled.fresh()
        like = self.layout.like(self.plan.abstract)
        found = self.checkpoints.restore(saved_state.split(like, self.layout.like(fresh)))
        if found is None:
            state = compiled.init(self._key("init"), teachers, self.plan.initial_vars())
            loop = LoopState(state, *fresh)
            return self._with_network(loop, self.plan.start().variables) if self.plan.start else loop
        items, meta = found
        self._check_meta(meta)
        if meta["teacher"] != (self.teacher and self.teacher["digest"]):
            origin = ", ".join(self.plan.phase.teacher)
            raise InputError(f"{self.folder}: was trained with another teacher than {origin} now is; add --overwrite")
        state, fresh = saved_state.join(like, fresh, items, meta["step"])
        self.clock, self.rows.warned = Clock(**meta["clock"]), meta["warned"]
        self.rows.results = resumed.results_of(meta, self.log, self.name, self.plan.task)
        log_line(f"{self.name}: resumed at step {meta['step']} of {self.plan.steps}")
        return LoopState(state, *fresh)

    def _with_network(self, loop: LoopState, network: Variables) -> LoopState:
        """The loop state with a network, or with the parts of it that there are."""
        state = loop.state
        network = self.layout.put(jax.tree.map(np.array, network), "s")  # a copy: the loop state is donated
        params = {**state.params, "student": {**state.params["student"], **network.params}}
        stats = {**state.stats, "student": {**state.stats["student"], **network.stats}}
        state = state._replace(params=params, stats=stats)
        if state.ema:
            average = jax.tree.map(np.array, self.layout.whole(state.student._asdict()))
            state = state._replace(ema=self.layout.put(average, "s"))
        return loop._replace(state=state)

    def _stop_if_not_finite(self, loop: LoopState) -> None:
        health = jax.device_get(loop.health)
        if health.step < 0:
            return
        terms = ", ".join(name.removeprefix("terms/") for name, bad in health.terms.items() if bad) or "their sum"
        self._stop(f"step {int(health.step)}: the loss is not finite (term: {terms})")

    def _stop(self, what: str) -> None:
        steps = self.checkpoints.steps()
        kept = f"the last good checkpoint, step {steps[0]}, is kept" if steps else "no checkpoint was saved yet"
        skipped = f"; skipped {self.recipe.skip_nonfinite} before" if self.recipe.skip_nonfinite else ""
        raise NonFiniteError(f"phase {self.name}, {what}{skipped}; {kept}")

    def _save(self, loop: LoopState) -> None:
        step = int(loop.state.step)
        if not saved_state.is_finite(loop.state.params):
            self._stop(f"step {step}: a parameter is not finite")
        meta = {
            "phase": self.name,
            "network": self.plan.network.describe(),
            "networks": self._aux_networks(loop.state),
            "teacher": self.teacher and self.teacher["digest"],
            "clock": asdict(self.clock),
            "warned": self.rows.warned,
            "source": self.source_file,
            "data": self.data_identity,
            "results": asdict(self.rows.results),
            "rows": self.log.counts(self.name, step),
        }
        self.log.flush()
        score = self.rows.results.at(step).get(self.plan.task.headline)
        self.checkpoints.save(step, saved_state.split(loop.state, (loop.metrics, loop.health)), meta, score)

    def _aux_networks(self, state: TrainState) -> dict[str, dict]:
        """Of the networks that are saved beside the student: what they are and where in the checkpoint."""
        student = self.plan.network
        networks = {}
        for label, aux in self.plan.aux_networks(state).items():
            places = saved_state.names(state, aux.variables)
            networks[label] = {"network": student._replace(name=aux.name).describe(), **places._asdict()}
        return networks

    def _outcome(self, loop: LoopState) -> dict:
        clock, state = self.clock, loop.state
        seconds = clock.training / clock.steps if clock.steps else None
        return {
            "model": self.plan.phase.model,
            "params": models.count_parameters(state.params["student"]),
            "method_params": models.count_parameters(state.params["method"]),
            "steps": self.plan.steps,
            "skipped_updates": int(loop.health.skipped),
            **self.rows.results.summary(self.plan.task),
            "networks": self.rows.network_results(self.plan.aux_networks(state)),
            "teacher": self.teacher,
            "weights": self.source_file,
            "ms_per_step": seconds and seconds * 1000,
            "images_per_second": seconds and self.plan.phase.batch_size / seconds,
            "wall_seconds": clock.wall,
        }
