"""Tasks as values: what a label, a metric and a headline are."""

from kd_jax.tasks.base import Task
from kd_jax.tasks.classification import CLASSIFICATION

__all__ = ["CLASSIFICATION", "Task"]
