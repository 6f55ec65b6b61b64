"""A part of a training set in which every class keeps its share."""

from typing import Any
from zlib import crc32

import numpy as np

from kd_jax.typing import InputError


def subset(source: Any, amount: float, *, seed: int) -> np.ndarray | None:
    """Positions of a random part of a source, in the source's order; stratified where there are labels.

    Args:
      source: of N examples: Arrays, or a Part, of which the labels of all examples are read, if it has any.
      amount: 0 for all; below 1 a fraction of N; otherwise a count, a whole number of at most N.
      seed: which examples; another seed draws others.

    Returns:
      (n,), n exactly as asked for; every class of the source has at least one example among them. None for all.

    Raises:
      InputError: not such a number, more than there are, or fewer than there are classes.
    """
    if amount == 0:
        return None
    n, labels = _count(amount, len(source)), source.labels
    labels = np.zeros(len(source), np.int32) if labels is None else labels  # without any, all are of one class
    quotas = shares(np.bincount(labels), n)
    order = np.random.default_rng((seed, crc32(b"subset"))).permutation(len(source))
    labels = labels[order]
    chosen = np.concatenate([order[labels == k][:quota] for k, quota in enumerate(quotas)])
    return None if n == len(source) else np.sort(chosen)


def shares(counts: np.ndarray, n: int) -> np.ndarray:
    """How many of n examples each class gets: in proportion, by largest remainders, at least one.

    Args:
      counts: (K,) examples of each class.
      n: at most their sum.

    Returns:
      (K,) int64 of sum n; 0 only where counts is 0.

    Raises:
      InputError: n is below the number of classes that have examples.
    """
    present = counts > 0
    if n < present.sum():
        raise InputError(f"data.subset: {n} examples for {present.sum()} classes; each must keep at least one")
    exact = n * counts / counts.sum()
    quotas = np.maximum(np.floor(exact).astype(np.int64), present)
    while quotas.sum() < n:
        quotas[np.argmax(exact - quotas)] += 1
    while quotas.sum() > n:  # what rare classes get above their share is taken from the most favoured
        quotas[np.argmin(np.where(quotas > 1, exact - quotas, np.inf))] -= 1
    return quotas


def _count(amount: float, n: int) -> int:
    if 0 < amount < 1:
        return round(amount * n)
    if amount < 0 or amount != int(amount):
        raise InputError(f"data.subset: must be a fraction below 1 or a whole number, got {amount}")
    if amount > n:
        raise InputError(f"data.subset: {amount:g} examples asked for, but the training set has {n}")
    return int(amount)
