"""A run that is done: its summary, as long as what it has saved is whole. What has taught it may be gone by then."""

from kd_jax import config, data
from kd_jax.distributed import processes
from kd_jax.plan import networks
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.metrics_log import MetricsLog
from kd_jax.storage.progress import log_line
from kd_jax.storage.workdir import Workdir, read_summary
from kd_jax.train import resumed


def summary_of(recipe: config.Recipe, home: Workdir, dataset: data.Dataset) -> dict | None:
    """The content of summary.json, or None where there is something left to do. Writes nothing.

    Raises:
      InputError: the folder is of other data, or of another network; its summary.json is damaged.
      StorageError: a file in it cannot be read.
    """
    folders = [home.path / phase.name for phase in recipe.phases]

    def read() -> list[dict | None] | None:
        return [resumed.read_outcome(folder) for folder in folders] if (home.path / "summary.json").exists() else None

    outcomes = processes.from_main(read)
    if outcomes is None or None in outcomes:
        return None
    identity, log = processes.from_main(lambda: dataset.identity), MetricsLog(home.path / "metrics.jsonl")
    for phase, folder, outcome in zip(recipe.phases, folders, outcomes, strict=True):
        checkpoints = Checkpoints(folder, read_only=True, say=log_line)
        meta, where = checkpoints.good(outcome["steps"]), checkpoints.where(outcome["steps"])
        checkpoints.close()
        if meta is None:
            return None
        network, _ = networks.weights_of(phase, networks.network_of(phase, dataset), home.path)
        resumed.check(meta, phase.name, identity, network.describe(), log, where)
    return processes.from_main(lambda: read_summary(home.path, [phase.name for phase in recipe.phases]))
