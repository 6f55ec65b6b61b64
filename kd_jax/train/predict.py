"""What a saved network, and its teacher, say of the test set; and what the phase's refiners make of both."""

from typing import NamedTuple

import numpy as np

from kd_jax import config
from kd_jax.distributed.mesh import Layout
from kd_jax.plan import build
from kd_jax.storage.workdir import resolve_path
from kd_jax.train.batches import Resident, Streamed, batches_of
from kd_jax.train.compiled import Teachers
from kd_jax.train.evaluate import read_config, saved
from kd_jax.train.inputs import load_teachers
from kd_jax.train.run import load_data
from kd_jax.train.targets import Targets, targets_of
from kd_jax.typing import Outputs


class Predictions(NamedTuple):
    """Of the N test images: logits (N, K) of the network, and of its teachers' mean or None; labels (N,); names of the
    classes, () where they have none; targets: of the first test batch, None without refiners of logits."""

    logits: np.ndarray
    teacher: np.ndarray | None
    labels: np.ndarray
    classes: tuple[str, ...]
    targets: Targets | None = None


def predict(workdir: str, *, phase: str, seed: int | None = None) -> Predictions:
    """Run a saved network, and its teachers where they stay as they are, over the test set.

    Args:
      workdir: folder of a run on data with labels.
      phase: its name.
      seed: which of several that were trained together.

    Raises:
      InputError: nothing saved there; data that is missing.
    """
    tree = read_config(workdir)
    tree["parallel"] = {"scope": "global", "mesh": (1,)}
    network, variables, _ = saved(workdir, phase=phase, seed=seed)
    recipe, layout = config.parse(tree), Layout((1,))
    dataset = load_data(recipe)
    (plan,) = (plan for plan in build(recipe, dataset, resolve_path(workdir), layout) if plan.name == phase)
    size, teachers = plan.phase.batch_size, ()
    if plan.measures_teachers:
        teachers = load_teachers(plan)[0]
    networks = (network.with_options(precision=recipe.precision), *(teacher.network for teacher in plan.teachers))
    run = Teachers(layout, networks[: 1 + len(teachers)], frozenset())
    with batches_of(recipe, layout, dataset) as source:
        outputs, labels = _over_the_test_set(run, (layout.put(variables), *layout.put(teachers, "s")), source, size)
        targets = targets_of(plan, resolve_path(workdir) / phase, teachers, next(source.test(size)), seed)
    student, *others = ([each.logits for each in seat] for seat in zip(*outputs, strict=True))
    logits = [np.concatenate(parts)[: len(labels)] for parts in (student, *others)]
    mean = np.mean(logits[1:], axis=0) if others else None
    return Predictions(logits[0], mean, labels, tuple(dataset.classes), targets)


def _over_the_test_set(
    run: Teachers, variables: tuple, source: Resident | Streamed, size: int
) -> tuple[list[tuple[Outputs, ...]], np.ndarray]:
    outputs, labels = [], []
    for batch in source.test(size):
        outputs.append(run(variables, batch, "test"))
        labels.append(np.asarray(batch["label"])[np.asarray(batch["mask"]) > 0])
    return outputs, np.concatenate(labels)
