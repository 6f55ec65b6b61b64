"""The network that a phase of a run has saved: find it, measure it."""

import math

import jax
from etils import epath

from kd_jax import config, recipes
from kd_jax.distributed.mesh import Layout
from kd_jax.models.network import Network, network_of
from kd_jax.plan import PhasePlan, build
from kd_jax.storage import files, metrics_log
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.networks import read_network, seed_in
from kd_jax.storage.progress import log_line
from kd_jax.storage.workdir import resolve_path
from kd_jax.tasks import headline_in, task_of
from kd_jax.train.batches import batches_of
from kd_jax.train.compiled import Teachers
from kd_jax.train.evaluator import Evaluator
from kd_jax.train.inputs import load_teachers
from kd_jax.train.resumed import results_in
from kd_jax.train.run import load_data
from kd_jax.typing import InputError, Variables


def read_config(workdir: str) -> dict:
    """The configuration of a run, with the defaults of keys that it lacks.

    Raises:
      InputError: no run there.
    """
    written = resolve_path(workdir) / "config.json"
    if not written.exists():
        raise InputError(f"--workdir={workdir}: no run here (no config.json)")
    return recipes.completed(files.read_json(written))


def _phase(workdir: str, tree: dict, phase: str) -> str:
    names = tree["phases"]
    if phase and phase not in names:
        raise InputError(f"--phase={phase}: not a phase of {workdir}; there are {', '.join(names)}")
    return phase or names[-1]


def saved(
    workdir: str, *, phase: str = "", best: bool = False, network: str = "", seed: int | None = None
) -> tuple[Network, Variables, int]:
    """A saved network, its weights and its step; no data and no teacher is needed.

    Args:
      workdir: folder of a run, or one that import_weights wrote.
      phase: its name; "" is the last one.
      best: the saved step with the highest top-1 (the phase's own network's, chosen on the test set) instead of the
        newest one.
      network: label of one that the phase trained beside its own ("dml", "ema"); "" is its own.
      seed: which one of several that were trained together; None is the first, and a line says so.

    Raises:
      InputError: no run there, no such phase, nothing saved, no such network, no such seed.
    """
    home, here = resolve_path(workdir), None
    if not (home / "checkpoints").exists():
        tree = read_config(workdir)
        phase, here = _phase(workdir, tree, phase), tree["seed"]
        home = home / phase
        if not (home / "checkpoints").exists():
            raise InputError(f"--phase={phase}: nothing is saved in {home} yet")
    reader = Checkpoints(home, read_only=True)
    chosen = _seed(reader, seed, here)
    step = _best(home, reader, chosen) if best else None
    variables, meta = read_network(reader, step, network, chosen)
    reader.close()
    described = meta["networks"][network]["network"] if network else meta["network"]
    return network_of(described), variables, meta["step"]


def _seed(reader: Checkpoints, seed: int | None, run_seed: int | None) -> int | None:
    """Which seed is read; None where one network was trained alone. run_seed: of the run, None where it is unknown."""
    meta = reader.read()[1]
    chosen, seeds = seed_in(meta, seed), [entry["seed"] for entry in meta.get("seeds", ())]
    accepted = ", ".join(map(str, seeds)) or "none, it holds one network" + (
        "" if run_seed is None else f", of seed {run_seed}"
    )
    if seed is not None and seed not in (seeds or [run_seed]):
        raise InputError(f"--seed={seed}: not in {reader.where(meta['step'])}; accepted: {accepted}")
    if seed is None and seeds:
        log_line(f"seed {chosen} of {accepted}; --seed chooses")
    return chosen


def _best(folder: epath.Path, reader: Checkpoints, seed: int | None) -> int:
    """The saved step with the highest headline on the test set, by what the checkpoints say; older ones say nothing,
    then by the rows of the log."""
    metas, tested = reader.metas(), {}
    for step, meta in metas.items():
        results = results_in(meta, seed)
        if results is not None:
            tested[step] = headline_in(results.at(step))
    for row in metrics_log.MetricsLog(folder.parent / "metrics.jsonl").of(folder.name, "test"):
        if row["step"] in metas and results_in(metas[row["step"]], seed) is None:
            tested[row["step"]] = headline_in(row)
    tested = {step: value for step, value in tested.items() if value is not None}
    if not tested:
        raise InputError(
            f"--best: no saved step of {folder.name} was tested; --config.checkpoint.best=1 keeps the best one"
        )
    return max(tested, key=lambda step: (tested[step], step))


def evaluate(
    workdir: str, *, phase: str = "", data_dir: str = "", best: bool = False, network: str = "",
    seed: int | None = None, top1: bool = False,
) -> dict:  # fmt: skip
    """Top-1, top-5 and cross-entropy of a saved network on the whole test set; without labels how far it agrees with
    the teacher of its phase, which is read as in the run.

    Args:
      workdir: folder of a run.
      phase: its name; "" is the last one.
      data_dir: where the data is on this machine, if elsewhere than in the run.
      best, network, seed: as for `saved`.
      top1: whether top-1 is asked for: without labels that is refused.

    Returns:
      phase, model, step, loss, top1, top5; without labels phase, model, step, loss, agreement, the last two only where
      there is a teacher that stays as it is.

    Raises:
      InputError: no run there, no such phase, nothing saved.
    """
    tree = read_config(workdir)
    phase = _phase(workdir, tree, phase)
    if top1 and not tree["data"]["labels"]:
        raise InputError(f"--expect_top1: {workdir} is of data without labels, where agreement is measured, not top-1")
    saved_network, variables, step = saved(workdir, phase=phase, best=best, network=network, seed=seed)
    if data_dir:
        tree["data"]["dir"] = data_dir
    # where it is measured changes nothing: on as many devices as there are and the batch divides by
    batch_size = tree[phase]["batch_size"]
    here = (math.gcd(batch_size, jax.device_count()),)
    tree["parallel"] = {"scope": "global", "mesh": here}
    recipe = config.parse(tree)
    layout, dataset = Layout(here), load_data(recipe)
    trained_on, given = saved_network.image_shape, dataset.test.shape
    if trained_on != given or saved_network.num_classes != dataset.train.num_classes:
        there = f"images {trained_on} of {saved_network.num_classes} classes"
        raise InputError(
            f"{workdir}: {phase} was trained on {there}; the data has {given}, {dataset.train.num_classes}"
        )
    measured = saved_network.with_options(precision=recipe.precision)
    with batches_of(recipe, layout, dataset) as source:
        evaluator = Evaluator(layout, source, measured, batch_size, task_of(recipe.data.labels))
        if not recipe.data.labels:
            plans = build(recipe, dataset, resolve_path(workdir), layout)
            _measure_teachers(evaluator, next(plan for plan in plans if plan.name == phase))
        metrics = evaluator.measure_network(measured.model, layout.put(variables))
    return {"phase": phase, "model": measured.name, "step": step, **metrics}


def line(result: dict) -> str:
    """One line on what `evaluate` returns."""
    shares = {"top1": "top-1", "top5": "top-5", "agreement": "agreement with its teacher"}
    shown = [f"{title} {result[name]:.2%}" for name, title in shares.items() if name in result]
    shown += [f"loss {result['loss']:.4f}"] if "loss" in result else ["no labels, and no teacher to agree with"]
    return f"{result['phase']} ({result['model']}, step {result['step']}): {'  '.join(shown)}"


def _measure_teachers(evaluator: Evaluator, plan: PhasePlan) -> None:
    """Have an evaluator know what the teachers of a phase say."""
    if plan.measures_teachers:
        teach = Teachers(plan.layout, tuple(teacher.network for teacher in plan.teachers), frozenset())
        evaluator.measure_teachers(teach, load_teachers(plan)[0])
