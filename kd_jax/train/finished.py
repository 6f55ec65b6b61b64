"""A run that is done: its summary, as long as what it has saved is whole. What has taught it may be gone by then."""

from kd_jax import config, data
from kd_jax.distributed import processes
from kd_jax.plan import networks
from kd_jax.storage import files
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
    written, folders = home.path / "summary.json", [home.path / phase.name for phase in recipe.phases]
    if not processes.from_main(lambda: written.exists() and all((folder / "DONE").exists() for folder in folders)):
        return None
    identity, log = processes.from_main(lambda: dataset.identity), MetricsLog(home.path / "metrics.jsonl")
    for phase, folder in zip(recipe.phases, folders, strict=True):
        steps = processes.from_main(lambda folder=folder: files.read_json(folder / "DONE"))["steps"]
        checkpoints = Checkpoints(folder, read_only=True, say=log_line)
        meta, where = checkpoints.good(steps), checkpoints.where(steps)
        checkpoints.close()
        if meta is None:
            return None
        network, _ = networks.weights_of(phase, networks.network_of(phase, dataset), home.path)
        resumed.check(meta, phase.name, identity, network.describe(), log, where)
    return processes.from_main(lambda: read_summary(home.path))
