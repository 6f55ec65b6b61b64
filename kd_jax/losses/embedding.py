"""The loss between two embeddings: what the classifiers of two networks read. Called by keyword."""

import jax.numpy as jnp

from kd_jax.losses.common import check_same_shape, l2_normalize, upcast
from kd_jax.typing import Array, InputError

DISTANCES = ("cosine", "mse")


def embed(*, student: Array, teacher: Array, distance: str = "cosine") -> Array:
    """Embedding distillation: the distance of the student's embedding from the teacher's, example by example.

        cosine   1 - sum_d s_d t_d / (|s| |t|), as half the squared distance of s / |s| and t / |t|, which keeps its
                 digits where the two agree
        mse      mean_d (s_d - t_d)^2

    Nothing is detached. A vector of zeros has no direction: the distance from it is 1/2, with gradient 0.

    Args:
      student: (B, D).
      teacher: (B, D).
      distance: "cosine", which sees directions alone, or "mse", which sees lengths too.

    Returns:
      (B,): in [0, 2] for the cosine, at least 0 for the squared distance.

    Raises:
      InputError: another distance.
      ValueError: different shapes.
    """
    if distance not in DISTANCES:
        raise InputError(f"embed: distance must be {' or '.join(DISTANCES)}, got {distance!r}")
    check_same_shape("embed", student, teacher)
    student, teacher = upcast(student, teacher)
    if distance == "mse":
        return jnp.mean((student - teacher) ** 2, axis=-1)
    return jnp.sum((l2_normalize(student) - l2_normalize(teacher)) ** 2, axis=-1) / 2
