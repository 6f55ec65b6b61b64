"""How alike the classes of a training set are to a teacher: a pass over the images before the first step."""

import numpy as np

from kd_jax import losses
from kd_jax.plan import PhasePlan
from kd_jax.storage.progress import log_line
from kd_jax.train.batches import Resident, Streamed
from kd_jax.train.compiled import Teachers
from kd_jax.typing import Array, Need, Variables


def class_cka(plan: PhasePlan, source: Resident | Streamed, teachers: tuple[Variables | None, ...]) -> Array | None:
    """`losses.class_cka` of the first teacher's last stage; None where no member of the phase reads it.

    Rows are the places of the maps of the training images, without augmentation, in the order of the set; of every
    class as many images as the smallest one has. A class with fewer than two is like no other.
    """
    if Need.CLASS_CKA not in plan.distiller.needs:
        return None
    labels, total = np.asarray(plan.context.labels), plan.network.num_classes
    positions = {k: where for k in range(total) if len(where := np.flatnonzero(labels == k)) > 1}
    if not positions:
        return plan.layout.put(np.eye(total, dtype=np.float32))
    count = min(map(len, positions.values()))
    log_line(f"{plan.name}: how alike {len(positions)} of {total} classes are, by {count} images of each")
    rows = np.concatenate([each[:count] for each in positions.values()])
    maps = _last_stages(plan, source, teachers[0], rows)
    features = np.zeros((total, maps.size // maps.shape[-1] // len(positions), maps.shape[-1]), np.float32)
    features[[*positions]] = maps.reshape(len(positions), *features.shape[1:])
    return plan.layout.put(losses.class_cka(features))


def _last_stages(plan: PhasePlan, source: Resident | Streamed, teacher: Variables, positions: np.ndarray) -> np.ndarray:
    """The last stage of training images at some positions, batch by batch; the last batch is filled up."""
    teach = Teachers(plan.layout, (plan.teachers[0].network,), frozenset({Need.TEACHER_STAGES}))
    size, maps = plan.phase.batch_size, []
    for start in range(0, len(positions), size):
        index = np.resize(positions[start : start + size], size).astype(np.int32)
        outputs = teach.of(0, teacher, {"image": source.whole_images_in(index)})
        maps.append(plan.layout.whole(outputs.stages[-1]))
    return np.concatenate(maps)[: len(positions)]
