"""A run: the phases of a recipe one after the other, each resumed from where it was."""

from dataclasses import asdict
from typing import NamedTuple

from kd_jax import config, data, recipes
from kd_jax.distributed import preemption, processes
from kd_jax.distributed.mesh import Layout
from kd_jax.models import graft
from kd_jax.plan import PhasePlan, build
from kd_jax.storage import files, metrics_log, trackers
from kd_jax.storage.progress import log_line
from kd_jax.storage.workdir import Workdir, read_summary
from kd_jax.tasks import task_of
from kd_jax.train import finished, machine, report
from kd_jax.train.batches import batches_of, share_of, workers_of
from kd_jax.train.cache_size import cache_lines, check_writable
from kd_jax.train.later import later_of
from kd_jax.train.phase import PhaseRun
from kd_jax.train.teacher_check import check_order
from kd_jax.typing import InputError


class Prepared(NamedTuple):
    """A run before its first effect: everything is built, checked and traced. plans: none yet in `_loaded`."""

    recipe: config.Recipe
    home: Workdir
    layout: Layout
    dataset: data.Dataset
    plans: tuple[PhasePlan, ...] = ()

    @property
    def heading(self) -> str:
        """One line on what runs, on which data, where."""
        train, test = self.dataset.train, self.dataset.test
        sizes = f"{len(train)} training and {len(test)} test images of {train.shape}"
        return f"{self.recipe.name}: {self.dataset.source}, {sizes}{self._read_by}; devices: {self.layout.count}"

    @property
    def _read_by(self) -> str:
        if not self.recipe.data.stream:
            return ""
        workers = workers_of(self.dataset, self.recipe.data.workers)
        return f", streamed by {workers} worker{'s' * (workers > 1)}" if workers else ", streamed by a thread"


def load_data(recipe: config.Recipe) -> data.Dataset:
    """The recipe's data set: in memory, or in files that a stream reads."""
    of_batches = ("augment", "strong", "mix", "erase", "workers")
    keywords = {key: value for key, value in asdict(recipe.data).items() if key not in of_batches}
    return data.load(**{**keywords, "seed": recipe.data_seed})


def prepare(tree: dict, workdir: str, *, overwrite: bool = False) -> Prepared:
    """Validate, load the data and plan every phase; writes nothing. Arguments and errors as for `run`."""
    return _planned(_loaded(tree, workdir, overwrite), overwrite)


def _loaded(tree: dict, workdir: str, overwrite: bool) -> Prepared:
    recipe = config.parse(tree)
    for extra in trackers.EXTRAS:
        if getattr(recipe.log, extra):
            trackers.required(extra)  # missing: say so now
    home = Workdir(workdir, tree, recipes.completed)
    home.check(overwrite=overwrite)
    machine.check_deterministic(recipe)
    layout = Layout(recipe.parallel.mesh, recipe.parallel.scope)
    if recipe.data.stream:
        share_of(layout)
    return Prepared(recipe, home, layout, load_data(recipe))


def _planned(loaded: Prepared, overwrite: bool) -> Prepared:
    recipe, home, layout, dataset, _ = loaded
    plans = build(recipe, dataset, home.path, layout)
    check_writable(recipe, plans if overwrite else _not_done(plans, home))
    for phase in recipe.phases:
        _refuse_headless(phase)
    in_memory = isinstance(dataset.train, data.Arrays) and dataset.train.labels is not None
    for plan in plans if recipe.teacher_check and in_memory else ():
        check_order(plan, dataset.train.labels)
    return loaded._replace(plans=plans)


def _not_done(plans: tuple[PhasePlan, ...], home: Workdir) -> list[PhasePlan]:
    return [plan for plan in plans if not (home.path / plan.name / "DONE").exists()]


def _refuse_headless(phase: config.Phase) -> None:
    """A graft that nobody gives a classifier would train with one of zeros."""
    if graft.parse(phase.model) and not (phase.teacher or phase.weights or phase.init.student):
        raise InputError(f"config.{phase.name}.teacher: none, but {phase.model} takes its classifier from there")


def run(tree: dict, workdir: str, *, overwrite: bool = False) -> dict:
    """Run or resume a recipe in a folder; a finished run changes nothing and prints its table.

    Args:
      tree: the nested dict of a ConfigDict.
      workdir: folder of the run, created if need be.
      overwrite: delete an earlier run there first.

    Returns:
      The content of summary.json.

    Raises:
      InputError: something in the configuration, the data or the folder is wrong.
      NonFiniteError: training diverged; the last good checkpoint is kept.
      Interrupted: SIGTERM, SIGINT or SIGHUP came; everything is saved.
      OSError: a file of the run could not be written; what was saved before is intact.
    """
    loaded = _loaded(tree, workdir, overwrite)
    summary = None if overwrite else finished.summary_of(loaded.recipe, loaded.home, loaded.dataset)
    if summary is not None:
        log_line(loaded.heading)
        _print(summary, loaded)
        return summary
    prepared = _planned(loaded, overwrite)
    with prepared.home.opened(overwrite=overwrite), preemption.stop_on_signal() as stop:
        return _run(prepared, tree, stop)


def _run(prepared: Prepared, tree: dict, stop) -> dict:
    recipe, home, layout, dataset, plans = prepared
    log_line(prepared.heading)
    if line := machine.kernels_line():
        log_line(line)
    for note in dataset.notes:
        log_line(f"note: {note}")
    _warn_of_idle_teacher(recipe)
    for plan in plans:
        _warn_of_milestones(plan)
        for line in plan.notes:
            log_line(line)
    log = metrics_log.MetricsLog(home.path / "metrics.jsonl")
    source = batches_of(recipe, layout, dataset)
    not_done = _not_done(plans, home)
    for line in cache_lines(recipe, not_done, source):
        log_line(line)
    data_identity = processes.from_main(lambda: dataset.identity)
    runs = [PhaseRun(recipe, plan, home, source, log, stop, data_identity) for plan in plans]
    results = {}
    for phase in runs:
        waiting = [plan for plan in not_done if plan.name not in (*results, phase.name)]
        later = later_of(phase.plan, waiting, [(run.plan, results[run.name]) for run in runs[: len(results)]])
        with source:  # which no longer computes ahead after the phase, however that ends
            try:
                results[phase.name] = phase.result(later)
            finally:
                log.track(())
    written, task = home.path / "summary.json", plans[0].task
    if any(phase.trained for phase in runs) or not processes.from_main(written.exists):
        summary = report.summarize(recipe, results, tree, data_identity)
        units = {monitor.log: monitor.unit for plan in plans for monitor in plan.distiller.monitors}

        def write() -> None:
            report.write(home.path, summary, log.rows, dataset, units, task)
            files.write_json(written, summary)  # last: where it stands, all is done

        processes.on_main(write)
    summary = processes.from_main(lambda: read_summary(home.path, results))
    _print(summary, prepared)
    return summary


def _print(summary: dict, prepared: Prepared) -> None:
    task = task_of(prepared.recipe.data.labels)
    log_line("\n" + report.text(summary, len(prepared.dataset.test), task))


def _warn_of_idle_teacher(recipe: config.Recipe) -> None:
    """Say that the phase `teacher` trains for nothing, as where the student's teacher is replaced by a flag."""
    others = tuple(phase.name for phase in recipe.phases if phase.name != "teacher")
    origins = [o for phase in recipe.phases for o in (*phase.teacher, phase.init.student, phase.init.method)]
    trains = any(phase.name == "teacher" and not phase.weights for phase in recipe.phases)
    if others and trains and not any(origin.partition("/")[0] == "phase:teacher" for origin in origins):
        log_line(f'note: phase teacher: no other phase learns from it; --config.phases="{others}" leaves it out')


def _warn_of_milestones(plan: PhasePlan) -> None:
    """Say that a shortened run under the papers' schedule never lowers its rate."""
    phase = plan.phase
    late = (
        plan.weights is None
        and phase.schedule.name == "step"
        and phase.steps is None
        and phase.epochs <= min(phase.schedule.milestones, default=0)
    )
    if late:
        log_line(
            f"note: {phase.name}: its {phase.epochs} epochs end before the first milestone "
            f"({phase.schedule.milestones[0]:g}), so the learning rate stays {phase.optim.lr:g}; "
            f"--config.{phase.name}.schedule.name=cosine lowers it"
        )
