"""Measure the network that a phase of a run has saved."""

from dataclasses import replace

from kd_jax import writers
from kd_jax.checkpoints import Checkpoints
from kd_jax.loop import prepare
from kd_jax.phase import Examiner
from kd_jax.programs import Programs, Resident
from kd_jax.typing import InputError
from kd_jax.workdir import place


def evaluate(workdir: str, *, phase: str = "", data_dir: str = "", best: bool = False) -> dict:
    """Top-1, top-5 and cross-entropy of a saved network on the whole test set.

    Args:
      workdir: folder of a run.
      phase: its name; "" is the last one.
      data_dir: where the data is on this machine, if elsewhere than in the run.
      best: the saved step with the highest top-1 (chosen on the test set) instead of the newest one.

    Returns:
      phase, model, step, loss, top1, top5.

    Raises:
      InputError: no run there, no such phase, nothing saved.
    """
    written = place(workdir) / "config.json"
    if not written.exists():
        raise InputError(f"--workdir={workdir}: no run here (no config.json)")
    tree = writers.read_json(written)
    if data_dir:
        tree["data"]["dir"] = data_dir
    made = prepare(tree, workdir)
    names = [job.phase.name for job in made.jobs]
    if phase and phase not in names:
        raise InputError(f"--phase={phase}: not a phase of {workdir}; there are {', '.join(names)}")
    job = made.jobs[names.index(phase) if phase else -1]
    folder = made.home.path / job.phase.name
    if not (folder / "checkpoints").exists():
        raise InputError(f"--phase={job.phase.name}: nothing is saved in {folder} yet")
    reader = Checkpoints(folder, read_only=True)
    variables, meta = reader.network(_best(made, job.phase.name, reader.steps()) if best else None)
    reader.close()
    source = Resident(made.layout, made.dataset, seed=0, augment="none")
    exam = Examiner(Programs(replace(job, teachers=()), made.layout), source, ())
    measured = exam.measure(made.layout.put(variables))
    return {"phase": job.phase.name, "model": job.phase.model, "step": meta["step"], **measured}


def _best(made, phase: str, saved: list[int]) -> int:
    """The saved step with the highest top-1 on the test set, by the run's own rows."""
    rows = writers.MetricsLog(made.home.path / "metrics.jsonl").of(phase, "test")
    tested = {row["step"]: row["top1"] for row in rows if row["step"] in saved}
    if not tested:
        raise InputError(f"--best: no saved step of {phase} was tested; --config.checkpoint.best=1 keeps the best one")
    return max(tested, key=lambda step: (tested[step], step))
