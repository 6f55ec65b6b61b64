"""A run: the phases of a recipe one after the other, each resumed from where it was."""

from dataclasses import asdict
from typing import NamedTuple

from kd_jax import config, data
from kd_jax.distributed import preemption, processes
from kd_jax.distributed.mesh import Layout
from kd_jax.models import graft
from kd_jax.plan.build import PhasePlan, plan
from kd_jax.storage import files, metrics_log
from kd_jax.storage.progress import log_line
from kd_jax.storage.workdir import Workdir
from kd_jax.train import report
from kd_jax.train.batches import batches_of, share_of, workers_of
from kd_jax.train.phase import PhaseRun
from kd_jax.typing import InputError


class Prepared(NamedTuple):
    """A run before its first effect: everything built and checked."""

    recipe: config.Recipe
    home: Workdir
    layout: Layout
    dataset: data.Dataset
    jobs: tuple[PhasePlan, ...]

    @property
    def heading(self) -> str:
        """One line on what runs, on which data, where."""
        train, test = self.dataset.train, self.dataset.test
        sizes = f"{len(train)} training and {len(test)} test images of {train.shape}"
        return f"{self.recipe.name}: {self.dataset.origin}, {sizes}{self._read_by}; devices: {self.layout.count}"

    @property
    def _read_by(self) -> str:
        if not self.recipe.data.stream:
            return ""
        workers = workers_of(self.dataset, self.recipe.data.workers)
        return f", streamed by {workers} worker{'s' * (workers > 1)}" if workers else ", streamed by a thread"


def load_data(recipe: config.Recipe) -> data.Dataset:
    """The recipe's data set: in memory, or in files that a stream reads."""
    wanted = asdict(recipe.data)
    del wanted["augment"], wanted["strong"], wanted["workers"]
    return data.load(**{**wanted, "seed": recipe.data_seed})


def prepare(tree: dict, workdir: str, *, overwrite: bool = False) -> Prepared:
    """Validate, load the data and build every phase; writes nothing. Arguments and errors as for `run`."""
    recipe = config.parse(tree)
    if recipe.log.tensorboard:
        metrics_log.tensorboard()  # missing: say so now
    home = Workdir(workdir, tree)
    home.check(overwrite=overwrite)
    layout = Layout(recipe.parallel.mesh, recipe.parallel.scope)
    if recipe.data.stream:
        share_of(layout)
    dataset = load_data(recipe)
    jobs = plan(recipe, dataset, home.path, layout.count)
    for job in jobs:
        _refuse_headless(job)
    return Prepared(recipe, home, layout, dataset, jobs)


def _refuse_headless(job: PhasePlan) -> None:
    """A graft that nobody gives a classifier would train with one of zeros."""
    phase = job.phase
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
      Interrupted: SIGTERM or SIGINT came; everything is saved.
      OSError: a file of the run could not be written; what was saved before is intact.
    """
    made = prepare(tree, workdir, overwrite=overwrite)
    with made.home.opened(overwrite=overwrite), preemption.stop_on_signal() as stop:
        return _run(made, tree, stop)


def _run(made: Prepared, tree: dict, stop) -> dict:
    recipe, home, layout, dataset, jobs = made
    log_line(made.heading)
    for job in jobs:
        _warn_of_milestones(job)
    log = metrics_log.MetricsLog(home.path / "metrics.jsonl")
    source = batches_of(recipe, layout, dataset)
    data_identity = processes.from_main(lambda: dataset.identity)
    runs = [PhaseRun(recipe, job, home, layout, source, log, stop, data_identity) for job in jobs]
    phases = {}
    for job, phase in zip(jobs, runs, strict=True):
        with source:  # which no longer computes ahead after the phase, however that ends
            phases[job.phase.name] = phase.result()
    written = home.path / "summary.json"
    if any(phase.trained for phase in runs) or not processes.from_main(written.exists):
        summary = report.summarize(recipe, phases, tree)
        watched = {watch.log: watch.unit for job in jobs for watch in job.distiller.monitors}

        def write() -> None:
            report.write(home.path, summary, log.rows, dataset, watched)
            files.write_json(written, summary)  # last: where it stands, all is done

        processes.on_main(write)
    summary = processes.from_main(lambda: files.read_json(written))
    log_line("\n" + report.text(summary, len(dataset.test)))
    return summary


def _warn_of_milestones(job: PhasePlan) -> None:
    """A shortened run under the papers' schedule never lowers its rate: say so."""
    phase = job.phase
    late = (
        job.weights is None
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
