"""Agreement: without labels, how often a network says what its teacher says is what counts."""

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.tasks import classification
from kd_jax.tasks.base import Task
from kd_jax.typing import Array, Batch


def batch_shapes(batch_size: int, image_shape: tuple[int, ...]) -> Batch:
    """The batch record as shapes: image (B, H, W, C), index and mask (B,)."""
    batch = classification.batch_shapes(batch_size, image_shape)
    return {name: shape for name, shape in batch.items() if name != "label"}


def train_metrics(logits: Array, batch: Batch) -> dict[str, Array]:
    """None: what the teacher says of a batch in training is seen by the method alone."""
    return {}


def test_metrics(logits: Array, teacher_logits: Array | None, batch: Batch) -> dict[str, Array]:
    """loss (KL(teacher || network) in nats, at temperature 1) and agreement, (B,) each; without a teacher nothing.

    Args:
      logits, teacher_logits: (B, K).
      batch: is not read.
    """
    if teacher_logits is None:
        return {}
    return {
        "loss": losses.kd(student=logits, teacher=teacher_logits, temperature=1.0),
        "agreement": classification.agreement(logits, teacher_logits),
    }


AGREEMENT = Task(
    name="agreement",
    batch=batch_shapes,
    predict=mean_logits,
    train_metrics=train_metrics,
    test_metrics=test_metrics,
    chance=lambda num_classes: 1 / num_classes,
    headline="agreement",
    summary=("agreement",),
    shown=("agreement",),
    titles={"agreement": "agreement"},
)
