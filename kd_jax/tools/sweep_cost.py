"""What a sweep would take, before it starts: its runs, the hours by a measured step, the disk of its teacher cache."""

from pathlib import Path

from kd_jax import config
from kd_jax.storage.progress import log_line
from kd_jax.tools import sweep_jobs
from kd_jax.tools.sweep import Sweep, describe
from kd_jax.train.dry_run import dry_run as dry_run_of
from kd_jax.train.dry_run import hours
from kd_jax.train.run import load_data


def dry_run(sweep: Sweep, train: Path, shard: tuple[int, int]) -> None:
    """Print the runs of a sweep, the dry run of the first cell of every kind, and the hours of all. Writes nothing.

    Two runs are of one kind if their config file, their data and the networks of their phases are the same: then a
    step takes equally long, but for what the settings change.

    Args:
      sweep, train: see `sweep.run`.
      shard: (index, count).
    """
    for line in describe(sweep, train, shard):
        log_line(line)
    measured, total = {}, 0.0
    for job in sweep.shard(*shard):
        if sweep_jobs.is_done(sweep.home, job):
            continue
        cell = job.cell
        kind = (
            cell.config,
            str(cell.tree["data"]),
            *((name, cell.tree[name]["model"]) for name in cell.tree["phases"]),
        )
        if kind not in measured:
            log_line(f"\n{cell.folder}:")
            examples = len(load_data(config.parse(cell.tree)).train)
            measured[kind] = (examples, dry_run_of(cell.tree, str(sweep.home / cell.folder)))
        examples, seconds = measured[kind]
        phases = (phase for phase in config.parse(cell.tree).phases if phase.name in job.phases)
        total += sum(seconds.get(phase.name, 0.0) * _steps(phase, examples) for phase in phases)
    log_line(f"\nall together: about {hours(total)} of training steps on this machine, one run after the other")


def _steps(phase: config.Phase, examples: int) -> int:
    return phase.steps or int(phase.epochs * (examples // phase.batch_size))
