"""What a checkpoint says of the run that it was saved by, against the run that goes on from it."""

from dataclasses import asdict

from kd_jax.data import identity
from kd_jax.storage import files
from kd_jax.storage.metrics_log import MetricsLog
from kd_jax.storage.progress import log_line
from kd_jax.tasks import Task
from kd_jax.train.results import Results
from kd_jax.typing import InputError


def read_outcome(folder) -> dict | None:
    """What DONE in the folder of a phase says: the phase's entry in summary.json; None where it is not done.

    Raises:
      InputError: it is damaged.
    """
    done, otherwise = folder / "DONE", "delete it, and the phase goes on from its last checkpoint"
    if not done.exists():
        return None
    outcome = files.read_json(done, otherwise)
    if not isinstance(outcome.get("steps"), int):
        raise InputError(f"{done}: does not say how many steps there were; restore it, or {otherwise}")
    return outcome


def check(meta: dict, phase: str, data_here: dict, network_here: dict, log: MetricsLog, where) -> None:
    """Refuse to go on with other data or another network; say what the log has lost. For arguments and errors see
    below."""
    check_data(meta, data_here, where)
    check_network(meta, network_here, where)
    report_lost_rows(meta, log, phase)


def check_data(meta: dict, here: dict, where) -> None:
    """Refuse to go on with other data.

    Args:
      meta: of the checkpoint; one of an older version says nothing of its data.
      here: `Dataset.identity` of this run.
      where: the checkpoint's folder.

    Raises:
      InputError: it says what differs.
    """
    changed = "data" in meta and identity.difference(meta["data"], here)
    if changed:
        raise InputError(
            f"{where}: was trained on other data than config.data now names: {changed}; "
            "give the same data, name another folder or add --overwrite"
        )


def check_network(meta: dict, here: dict, where) -> None:
    """Refuse to go on with another network.

    Args:
      meta: of the checkpoint.
      here: `Network.describe` of this run.
      where: the checkpoint's folder.

    Raises:
      InputError: it says what differs.
    """
    old, new = meta["network"], here | {"image_shape": list(here["image_shape"])}  # as JSON has it
    for key in ("name", "num_classes", "image_shape"):  # a machine may measure mean and std with other last bits
        if old[key] != new[key]:
            raise InputError(
                f"{where}: is of another network: its {key} is {old[key]}, this run's is {new[key]}; name another "
                "folder or add --overwrite"
            )


def report_lost_rows(meta: dict, log: MetricsLog, phase: str) -> None:
    """Say how many rows the log lacks that were in it when the checkpoint was saved (after a loss of power)."""
    there, saved = log.counts(phase, meta["step"]), meta.get("rows", {})
    lost = sum(max(count - there.get(split, 0), 0) for split, count in saved.items())
    if lost:
        total = sum(saved.values())
        log_line(f"{phase}: metrics.jsonl has lost {lost} of {total} rows; the results are kept in the checkpoints")


def results_in_meta(seeds: tuple[int, ...], results: tuple[Results, ...]) -> dict:
    """How a checkpoint's meta holds the results; several seeds stand there by number."""
    if len(seeds) == 1:
        return {"results": asdict(results[0])}
    return {"seeds": [{"seed": s, "results": asdict(one)} for s, one in zip(seeds, results, strict=True)]}


def results_in(meta: dict, seed: int | None) -> Results | None:
    """The results that a meta holds, of one of several seeds; None of an older version, which has none. seed: as
    `seed_in` says."""
    if seed is None:
        return Results(**meta["results"]) if "results" in meta else None
    return next(Results(**entry["results"]) for entry in meta["seeds"] if entry["seed"] == seed)


def results_of(meta: dict, log: MetricsLog, phase: str, task: Task) -> tuple[Results, ...]:
    """The results of every seed up to a checkpoint; of an older version, which has none, what the log's test rows
    say."""
    if "seeds" in meta:
        return tuple(results_in(meta, entry["seed"]) for entry in meta["seeds"])
    results = results_in(meta, None)
    if results is not None:
        return (results,)
    results = Results()
    for row in log.of(phase, "test"):
        if row["step"] <= meta["step"]:
            results.add(row, task)
    return (results,)
