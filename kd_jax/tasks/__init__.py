"""Tasks as values: what a label, a metric and a headline are."""

from kd_jax.tasks.agreement import AGREEMENT
from kd_jax.tasks.base import Task
from kd_jax.tasks.classification import CLASSIFICATION

__all__ = ["AGREEMENT", "CLASSIFICATION", "Task", "headline_in", "task_of"]


def task_of(labels: bool) -> Task:
    """The task of a run, by whether its data has labels."""
    return CLASSIFICATION if labels else AGREEMENT


def headline_in(row: dict) -> float | None:
    """The headline in a test row of any task; None where nothing was measured."""
    return next((row[task.headline] for task in (CLASSIFICATION, AGREEMENT) if task.headline in row), None)
