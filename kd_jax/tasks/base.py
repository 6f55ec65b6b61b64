"""What a task is."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Task(NamedTuple):
    """What a network learns: what a batch holds, how the network is measured, and which number is its headline.

    name: of the task. batch: (batch size, image shape) -> the batch record as shapes. predict: a tuple of Outputs, of
    one network or of several -> their common prediction. train_metrics: (prediction, batch) -> name -> (B,).
    test_metrics: (prediction, teachers' prediction or None, batch) -> name -> (B,). chance: number of classes -> the
    headline of a guess. headline: the metric that stands for the result. summary: the metrics that a result names.
    shown: those of them that a line on the terminal has room for. titles: metric -> what a person reads; all of these
    metrics are shares in [0, 1].
    """

    name: str
    batch: Callable
    predict: Callable
    train_metrics: Callable
    test_metrics: Callable
    chance: Callable
    headline: str
    summary: tuple[str, ...]
    shown: tuple[str, ...]
    titles: Mapping[str, str]
