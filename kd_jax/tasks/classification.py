"""Classification: a label is one of K classes, and the share of right answers is what counts."""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.tasks.base import Task
from kd_jax.typing import Array, Batch


def batch_shapes(batch_size: int, image_shape: tuple[int, ...]) -> Batch:
    """The batch record as shapes: image (B, H, W, C), label, index and mask (B,)."""
    image = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    index = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return {"image": image, "label": index, "index": index, "mask": jax.ShapeDtypeStruct((batch_size,), jnp.float32)}


def train_metrics(logits: Array, batch: Batch) -> dict[str, Array]:
    """top1, (B,)."""
    return {"top1": top_k(logits, batch["label"], 1)}


def test_metrics(logits: Array, teacher_logits: Array | None, batch: Batch) -> dict[str, Array]:
    """loss (the cross-entropy), top1, top5 and, with a teacher, agreement, (B,) each. Logits are (B, K)."""
    label = batch["label"]
    metrics = {
        "loss": losses.cross_entropy(student=logits, labels=label),
        "top1": top_k(logits, label, 1),
        "top5": top_k(logits, label, 5),
    }
    return metrics if teacher_logits is None else {**metrics, "agreement": agreement(logits, teacher_logits)}


def top_k(logits: Array, labels: Array, k: int) -> Array:
    """(B,) 1.0 where the label is among the k highest logits; ties count against the label.

    With fewer than k classes, k is their number.
    """
    label_logit = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # "not lower", so that a constant or NaN prediction does not score
    ahead = jnp.sum(~(logits < label_logit), axis=-1) - 1
    return (ahead < min(k, logits.shape[-1])).astype(jnp.float32)


def agreement(student: Array, teacher: Array) -> Array:
    """(B,) 1.0 where both predict the same class."""
    return (jnp.argmax(student, axis=-1) == jnp.argmax(teacher, axis=-1)).astype(jnp.float32)


CLASSIFICATION = Task(
    name="classification",
    batch=batch_shapes,
    predict=mean_logits,
    train_metrics=train_metrics,
    test_metrics=test_metrics,
    chance=lambda num_classes: 1 / num_classes,
    headline="top1",
    summary=("top1", "top5", "agreement"),
    shown=("top1", "agreement"),
    titles={"top1": "top-1", "top5": "top-5", "agreement": "agreement"},
)
