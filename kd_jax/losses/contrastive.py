"""CRD's loss and the constants that it divides by. Arrays in, one value an example out; always called by keyword.

Computed in float32 (or wider), in the logarithms of the scores, so that no temperature overflows. Nothing is detached.
"""

import jax
import jax.numpy as jnp

from kd_jax.losses.common import gram, upcast
from kd_jax.typing import Array

EPS = 1e-7  # of the published code
LARGEST = 80.0  # bound of the logarithm of a constant: float32 can represent its exp, and the inverse of that


def crd(
    *,
    student: Array,
    teacher: Array,
    student_bank: Array,
    teacher_bank: Array,
    index: Array,
    negatives: Array,
    student_scale: Array,
    teacher_scale: Array,
    temperature: float = 0.07,
) -> Array:
    """Contrastive representation distillation: an example's embedding in one network is to recognise the example's row
    of the other network's bank among the rows of M negatives. Each network is the anchor once:

        a(student, teacher_bank, student_scale) + a(teacher, student_bank, teacher_scale)
        a(v, bank, Z)_b = -log(P_b0 / (P_b0 + c + e)) - sum_{m = 1..M} log(c / (P_bm + c + e))
        P_bm = exp(v_b . bank[i_bm] / T) / Z,   i_b = (index_b, negatives_b),   c = M / N,   e = 1e-7

    The mean over the batch is the published loss. Nothing is detached.

    All N scores of an anchor are computed as one matrix product (B, N), and M + 1 of them are taken. The vectors
    (B, M + 1, D) are not gathered. On a CPU, at D = 128 and N = 3 M, this takes a seventh of the time and of the
    memory of a gather; from about N = 20 M on a gather would be faster.

    Args:
      student, teacher: (B, D) embeddings, of length 1.
      student_bank, teacher_bank: (N, D), earlier embeddings of the networks.
      index: (B,) int32, the examples' rows in the banks.
      negatives: (B, M) int32, M >= 1, rows of other examples.
      student_scale, teacher_scale: () above 0, Z of each anchor; 0 takes the value of `crd_scales` for this batch.
      temperature: T > 0.

    Returns:
      (B,), at least 0.

    Raises:
      ValueError: shapes that do not fit.

    Reference: Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv 1910.10699.
    Differs: as in the published code, scores are divided by constants and e is added; the paper has neither.
    """
    pairs = _pairs(student, teacher, student_bank, teacher_bank, index, negatives)
    count, c = negatives.shape[1], negatives.shape[1] / len(student_bank)
    total = 0.0
    for (anchor, bank), scale in zip(pairs, upcast(student_scale, teacher_scale), strict=True):
        scores = _scores(anchor, bank, index, negatives, temperature)
        unset = scale == 0
        log_scale = jnp.where(unset, _log_scale(scores, len(bank)), jnp.log(jnp.where(unset, 1.0, scale)))
        odds = scores - log_scale - jnp.log(c + EPS)  # log(P / (c + e)); both logarithms are softplus of it
        total += jax.nn.softplus(-odds[:, 0]) + jnp.sum(jax.nn.softplus(odds[:, 1:]), axis=1)
    return total + 2 * count * jnp.log1p(EPS / c)


def crd_scales(
    *,
    student: Array,
    teacher: Array,
    student_bank: Array,
    teacher_bank: Array,
    index: Array,
    negatives: Array,
    temperature: float = 0.07,
) -> tuple[Array, Array]:
    """The constants Z that `crd` divides scores by, as the published code sets them from the first batch.

        Z = N mean_{bm} exp(v_b . bank[i_bm] / T)

    over the positives and the negatives, for the student and for the teacher as the anchor. Nothing is detached.

    Args:
      student, teacher, student_bank, teacher_bank, index, negatives, temperature: as for `crd`.

    Returns:
      student_scale, teacher_scale: each (), in [e^-80, e^80].

    Raises:
      ValueError: as `crd`.
    """
    pairs = _pairs(student, teacher, student_bank, teacher_bank, index, negatives)
    scores = [_scores(*pair, index, negatives, temperature) for pair in pairs]
    return tuple(jnp.exp(_log_scale(x, len(student_bank))) for x in scores)


def _pairs(student, teacher, student_bank, teacher_bank, index, negatives) -> list[tuple[Array, Array]]:
    """Each anchor and the other network's bank, as at least float32, after the checks."""
    shapes = [x.shape for x in (student, teacher, student_bank, teacher_bank, index, negatives)]
    batch, _, bank, _, rows, others = shapes
    fit = shapes[:4] == [batch, batch, bank, bank] and rows == batch[:1] == others[:1] and batch[1:] == bank[1:]
    if not fit or len(batch) != 2 or len(others) != 2 or not others[1]:
        raise ValueError(
            "crd: embeddings (B, D) twice, banks (N, D) twice, index (B,) and negatives (B, M), M >= 1, wanted, "
            f"got {', '.join(map(str, shapes))}"
        )
    return [tuple(upcast(*pair)) for pair in ((student, teacher_bank), (teacher, student_bank))]


def _scores(anchor: Array, bank: Array, index: Array, negatives: Array, temperature: float) -> Array:
    """(B, M + 1): the anchors' products with their row of the bank and with their negatives' rows, divided by T."""
    rows = jnp.concatenate([index[:, None], negatives], axis=1)
    return jnp.take_along_axis(gram(anchor, bank), rows, axis=1) / temperature


def _log_scale(scores: Array, count: int) -> Array:
    return jnp.clip(jax.nn.logsumexp(scores) + jnp.log(count / scores.size), -LARGEST, LARGEST)
