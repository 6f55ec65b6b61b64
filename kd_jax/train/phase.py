"""One phase of a run: restore or start, train, measure, save, until its last step."""

import time
from dataclasses import asdict, dataclass

import jax
import numpy as np

from kd_jax import config, models
from kd_jax.distributed import processes
from kd_jax.distributed.mesh import Layout
from kd_jax.distributed.preemption import Interrupted
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState
from kd_jax.plan.build import PhasePlan
from kd_jax.storage import files
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.progress import Progress, log_line
from kd_jax.storage.workdir import Workdir
from kd_jax.train import report, resumed, saved_state
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import CompiledPhase, LoopState
from kd_jax.train.evaluator import Evaluator
from kd_jax.train.inputs import StepInputs, resolve_teachers
from kd_jax.train.results import Results
from kd_jax.typing import AuxNetwork, InputError, Variables


class NonFiniteError(ArithmeticError):
    """Training met a loss or a parameter that is not finite."""


@dataclass
class Clock:
    """Seconds so far: in all, and spent on `steps` training steps (compilation left out)."""

    wall: float = 0.0
    training: float = 0.0
    steps: int = 0


class PhaseRun:
    """A phase of a run in its folder. `result` does all there is to do."""

    def __init__(
        self,
        recipe: config.Recipe,
        job: PhasePlan,
        home: Workdir,
        layout: Layout,
        source: Resident | Streamed,
        log,
        stop,
        data_identity: dict,
    ):
        """stop: asked after every step, with it, for the number of a signal that asks to stop, or None.
        data_identity: `Dataset.identity`."""
        self.recipe, self.job, self.layout, self.source, self.log, self.stop = recipe, job, layout, source, log, stop
        self.name = job.phase.name
        self.folder = home.path / self.name
        kept = {"keep": recipe.checkpoint.keep, "best": recipe.checkpoint.best}
        self.checkpoints = Checkpoints(self.folder, **kept, say=log_line)
        self.clock, self.warned, self.teacher, self.trained = Clock(), [], None, False
        self.data_identity, self.results = data_identity, Results()
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
        outcome = self.finished()
        if outcome is None:
            outcome = self._train() if self.job.weights is None else self._take_over()
            self.trained = True
            files.write_json(self.folder / "DONE", outcome)
        self.checkpoints.close()
        return outcome

    def _begin(self) -> tuple[CompiledPhase, tuple[Variables | None, ...], Evaluator]:
        """The programs, the teachers, and the teachers' own exam."""
        programs = CompiledPhase(self.job, self.layout, skip=self.recipe.skip_nonfinite)
        teachers = self._load_teachers()
        exam = Evaluator(programs, self.source, teachers)
        if self.teacher and exam.teacher_top1 is not None:
            self.teacher["top1"] = exam.teacher_top1
            log_line(f"{self.name}: teacher {self.teacher['origin']}, top-1 {exam.teacher_top1:.2%}")
            self._check_teacher(exam.teacher_top1)
        return programs, teachers, exam

    def _take_over(self) -> dict:
        """Weights from a file in place of training: measured and saved as if they were trained, at step 0."""
        began = time.monotonic()
        programs, teachers, exam = self._begin()
        carry = self._start(programs, teachers)
        if self.checkpoints.steps():
            self.source_file = self.checkpoints.read(step=0)[1]["source"]
        else:
            loaded = self.job.weights()
            carry, self.source_file = self._given(carry, loaded.variables), loaded.source
        self.log.rewind(self.name, -1)
        row = self._row("test", 0, exam.measure(carry.state))
        self.log.add(row)
        self.results.add(row)
        log_line(f"{self.name}: weights of {self.source_file['file']}, top-1 {row['top1']:.2%}")
        self.clock.wall += time.monotonic() - began
        if not self.checkpoints.steps():
            self._save(carry)
        self.checkpoints.wait()
        return self._outcome(carry)

    def _train(self) -> dict:
        job, began = self.job, time.monotonic()
        log_line(job.effective_batch(self.layout.count))
        programs, teachers, exam = self._begin()
        carry, key = self._start(programs, teachers), self.layout.put(jax.random.key(self.recipe.seed))
        step, wall, mark = int(carry.state.step), self.clock.wall, None
        self.log.rewind(self.name, step)
        self.log.mirror(self.folder.parent / "tensorboard" if self.recipe.log.tensorboard else None, self.name, step)
        progress = Progress(self.name, step, job.steps)
        feed = StepInputs(programs, self.source, teachers)
        while step < job.steps:
            taught, batch = feed.train(step, carry.state)
            if step < job.split.steps and step % job.distiller.search.every == 0:
                carry = programs.search(carry, (taught, batch), feed.judge(step, carry.state), key)
            carry = programs.train(carry, taught, batch, key)
            step += 1
            feed.ahead(step)  # before anything waits for the step that has just begun
            if mark is None:  # the first step compiles: wait for it, then start to count
                jax.block_until_ready(carry)
                mark = (time.monotonic(), step)
            due, signal = self._due(step), self.stop(step)
            if not any(due) and signal is None:
                continue
            self._stop_if_ill(carry)
            self.clock.training += time.monotonic() - mark[0]
            self.clock.steps += step - mark[1]
            row, test, save = due
            if row:
                self._log_row(carry, step, progress)
                carry = carry._replace(metrics=programs.no_metrics())
            if test:
                self._test_row(exam.measure(carry.state), step, progress)
            if save or signal is not None:
                self.clock.wall = wall + time.monotonic() - began
                self._save(carry)
            if signal is not None:
                self.checkpoints.wait()
                raise Interrupted(signal, f"phase {self.name}, step {step} of {job.steps}")
            mark = (time.monotonic(), step)
        if not self.results.at(job.steps):  # the last checkpoint is of a version that did not keep them
            self._test_row(exam.measure(carry.state), job.steps, progress)
        progress.close()
        self.checkpoints.wait()
        self._draw(programs, teachers, carry)
        self.log.in_order([p.name for p in self.recipe.phases])
        return self._outcome(carry)

    def _draw(self, programs: CompiledPhase, teachers: tuple[Variables | None, ...], carry: LoopState) -> None:
        """maps.png: what the method sees where in the first test images, if it says."""
        if self.job.distiller.visualizations:
            batch = next(iter(self.source.test(self.job.phase.batch_size)))
            now = resolve_teachers(teachers, carry.state)
            taught = programs.teach(now, batch["image"]) if self.job.needs_teachers else ()
            found, images = self.layout.whole((programs.visualizations(carry.state, taught, batch), batch["image"]))
            if processes.is_main():
                (self.folder / "maps.png").write_bytes(report.overlays(images, found))

    def _due(self, step: int) -> tuple[bool, bool, bool]:
        """Whether a training row, a test row and a save fall on this step; all do on the last."""
        every = (self.recipe.log.every, self.job.eval_every, self.job.save_every)
        return tuple(step == self.job.steps or step % n == 0 for n in every)

    def _load_teachers(self) -> tuple[Variables | None, ...]:
        """The teachers' variables on the devices; notes where they came from."""
        loaded, digests = [], []
        for teacher in self.job.teachers:
            read = teacher.load() if teacher.load else None
            loaded.append(read and self.layout.put(read.variables, "s"))
            digests.append(read.digest if read else teacher.origin)
        if loaded:
            self.teacher = {"origin": ",".join(self.job.phase.teacher), "digest": ",".join(digests), "top1": None}
        return tuple(loaded)

    def _check_teacher(self, top1: float) -> None:
        """Refuse a teacher that guesses: within three standard errors, or half a chance, of guessing."""
        chance = 1 / self.job.network.num_classes
        spread = chance * (1 - chance)
        near = chance + max(3 * (spread / self.source.sizes["test"]) ** 0.5, spread / 2)
        if self.recipe.teacher_check and top1 <= near:
            raise InputError(
                f"config.{self.name}.teacher: {self.teacher['origin']} has top-1 {top1:.2%} on the test set, "
                f"near chance ({chance:.2%}): other weights, classes or normalisation? "
                "--config.teacher_check=False insists"
            )

    def _start(self, programs: CompiledPhase, teachers: tuple[Variables | None, ...]) -> LoopState:
        """The newest good checkpoint, or the beginning."""
        beside = programs.no_metrics(), programs.no_faults()
        like = self.layout.like(self.job.abstract)
        found = self.checkpoints.restore(saved_state.split(like, self.layout.like(beside)))
        if found is None:
            key = self.layout.put(jax.random.key(self.recipe.seed))
            carry = LoopState(programs.init(key, teachers, self.job.given()), *beside)
            return self._given(carry, self.job.start().variables) if self.job.start else carry
        items, meta = found
        self._check_meta(meta)
        if meta["teacher"] != (self.teacher and self.teacher["digest"]):
            origin = ", ".join(self.job.phase.teacher)
            raise InputError(f"{self.folder}: was trained with another teacher than {origin} now is; add --overwrite")
        state, beside = saved_state.join(like, beside, items, meta["step"])
        self.clock, self.warned = Clock(**meta["clock"]), meta["warned"]
        self.results = resumed.results_of(meta, self.log, self.name)
        log_line(f"{self.name}: resumed at step {meta['step']} of {self.job.steps}")
        return LoopState(state, *beside)

    def _given(self, carry: LoopState, network: Variables) -> LoopState:
        """The carry with a network, or with the parts of it that there are."""
        state = carry.state
        network = self.layout.put(jax.tree.map(np.array, network), "s")  # a copy: the carry is donated
        params = {**state.params, "student": {**state.params["student"], **network.params}}
        stats = {**state.stats, "student": {**state.stats["student"], **network.stats}}
        state = state._replace(params=params, stats=stats)
        if state.ema:
            average = jax.tree.map(np.array, self.layout.whole(state.student._asdict()))
            state = state._replace(ema=self.layout.put(average, "s"))
        return carry._replace(state=state)

    def _stop_if_ill(self, carry: LoopState) -> None:
        health = jax.device_get(carry.health)
        if health.step < 0:
            return
        terms = ", ".join(name.removeprefix("terms/") for name, bad in health.terms.items() if bad) or "their sum"
        self._stop(f"step {int(health.step)}: the loss is not finite (term: {terms})")

    def _stop(self, what: str) -> None:
        steps = self.checkpoints.steps()
        kept = f"the last good checkpoint, step {steps[0]}, is kept" if steps else "no checkpoint was saved yet"
        skipped = f"; skipped {self.recipe.skip_nonfinite} before" if self.recipe.skip_nonfinite else ""
        raise NonFiniteError(f"phase {self.name}, {what}{skipped}; {kept}")

    def _row(self, split: str, step: int, values: dict[str, float]) -> dict:
        epoch = step / self.job.steps_per_epoch
        return {"phase": self.name, "step": step, "epoch": epoch, "split": split, **values}

    def _log_row(self, carry: LoopState, step: int, progress: Progress) -> None:
        means = metrics_lib.read(carry.metrics)
        groups = {
            g: {k.removeprefix(g + "/"): v for k, v in means.items() if k.startswith(g + "/")}
            for g in ("terms", "logs")
        }
        values = {"loss": means["loss"], "top1": means["top1"], "lr": float(self.job.schedule(np.int32(step - 1)))}
        self.log.add(self._row("train", step, {**values, **groups}))
        progress.advance(step, loss=values["loss"], top1=values["top1"])
        for watch in self.job.distiller.monitors:
            if watch.minimum is None:
                continue
            value = groups["logs"][watch.log]
            if watch.log not in self.warned and not value >= watch.minimum:
                self.warned.append(watch.log)
                log_line(
                    f"warning: {self.name}, step {step}: {watch.log} = {value:.3g} < {watch.minimum:g}: {watch.message}"
                )

    def _test_row(self, measured: dict[str, float], step: int, progress: Progress) -> None:
        row = self._row("test", step, measured)
        self.log.add(row)
        self.results.add(row)
        progress.line(step, row["epoch"], self.job.steps / self.job.steps_per_epoch, row)

    def _save(self, carry: LoopState) -> None:
        if not saved_state.is_finite(carry.state.params):
            self._stop(f"step {int(carry.state.step)}: a parameter is not finite")
        meta = {
            "phase": self.name,
            "network": self.job.network.describe(),
            "networks": self._peers(carry.state),
            "teacher": self.teacher and self.teacher["digest"],
            "clock": asdict(self.clock),
            "warned": self.warned,
            "source": self.source_file,
            "data": self.data_identity,
            "results": asdict(self.results),
            "rows": self.log.counts(self.name, int(carry.state.step)),
        }
        self.log.flush()
        step, items = int(carry.state.step), saved_state.split(carry.state, (carry.metrics, carry.health))
        self.checkpoints.save(step, items, meta, self.results.at(step).get("top1"))

    def _peers(self, state: TrainState) -> dict[str, dict]:
        """Of the networks that are saved beside the student: what they are and where in the checkpoint."""
        own = self.job.network
        return {
            label: {
                "network": own._replace(name=peer.name).describe(),
                **saved_state.names(state, peer.variables)._asdict(),
            }
            for label, peer in self.job.peers(state).items()
        }

    def _outcome(self, carry: LoopState) -> dict:
        clock, peers = self.clock, self.job.peers(carry.state)
        seconds = clock.training / clock.steps if clock.steps else None
        return {
            "model": self.job.phase.model,
            "params": models.count_parameters(carry.state.params["student"]),
            "method_params": models.count_parameters(carry.state.params["method"]),
            "steps": self.job.steps,
            "skipped_updates": int(carry.health.skipped),
            **self.results.summary(),
            "agreement_last": self.results.last.get("agreement"),
            "networks": {label: self._peer_outcome(label, peer) for label, peer in peers.items()},
            "teacher": self.teacher,
            "weights": self.source_file,
            "ms_per_step": seconds and seconds * 1000,
            "images_per_second": seconds and self.job.phase.batch_size / seconds,
            "wall_seconds": clock.wall,
        }

    def _peer_outcome(self, label: str, peer: AuxNetwork) -> dict:
        params = models.count_parameters(peer.variables.params)
        return {"model": peer.name, "params": params, **self.results.summary(label)}
