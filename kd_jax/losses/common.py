"""Parts of several losses: checks, widening, means, norms, attention maps, Gram matrices, distances, pooling."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from kd_jax.typing import Array, InputError, Outputs

TINY = 1e-12  # smallest norm that a vector is divided by, as PyTorch's normalize


def check_same_length(
    name: str, *sequences: Sequence[Array], least: int = 1, wanted: str = "as many maps of one as of the other"
) -> None:
    """Refuse sequences of different lengths, or shorter than `least`.

    Raises:
      ValueError: naming the loss, what is wanted, and the lengths.
    """
    counts = [len(sequence) for sequence in sequences]
    if counts[0] < least or len(set(counts)) > 1:
        raise ValueError(f"{name}: needs {wanted}, got {' and '.join(map(str, counts))}")


def check_same_shape(name: str, student: Array, teacher: Array) -> None:
    """Refuse maps of different shapes.

    Raises:
      ValueError: naming the loss and both shapes.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"{name}: maps of one shape wanted, got {student.shape} and {teacher.shape}")


def mean_square(x: Array) -> Array:
    """(B, ...) to (B,): the mean of the squares over all other axes."""
    return jnp.mean(x**2, axis=tuple(range(1, x.ndim)))


def upcast(*arrays: Array) -> list[Array]:
    """Arrays as at least float32: half precision loses the small differences that losses are about."""
    return [jnp.asarray(x).astype(jnp.promote_types(jnp.asarray(x).dtype, jnp.float32)) for x in arrays]


def l2_norm(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """The L2 norm along the axes, which remain with size 1. The norm of zeros is 0, with gradient 0."""
    squares = jnp.sum(x**2, axis=axis, keepdims=True)
    zero = squares == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def l2_normalize(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """x divided by its L2 norm along the axes, or by 1e-12 if that is larger; zeros stay zeros, with gradient 0.

    PyTorch's normalize has the same values; its gradient at zeros is 1e12.
    """
    squares = jnp.sum(x**2, axis=axis, keepdims=True)
    zero = squares == 0  # replaced twice, since a search differentiates the gradient too
    return x * jnp.where(zero, 0.0, jnp.maximum(jnp.where(zero, 1.0, squares), TINY**2) ** -0.5)


def attention(x: Array, p: int) -> Array:
    """Attention maps, (B, H, W, *) to (B, H W): the mean of the p-th power over channels, flattened, divided by its L2
    norm; a map of zeros stays 0."""
    return l2_normalize(jnp.mean(x ** int(p), axis=-1).reshape(len(x), -1))


def check_integer(name: str, **powers: float) -> None:
    """Refuse a power that is not a whole number above 0.

    Raises:
      InputError: naming the loss, the power and its value.
    """
    for power, p in powers.items():
        if p < 1 or p != int(p):
            raise InputError(f"{name}: {power} must be a whole number, at least 1, got {p}")


def gram(a: Array, b: Array | None = None) -> Array:
    """(..., N, D) and (..., M, D) to the inner products (..., N, M) of their rows; b is a where it is None."""
    return jnp.einsum("...nd,...md->...nm", a, a if b is None else b, precision="highest")


def distances(x: Array, *, squared: bool = False) -> Array:
    """(N, D) to the Euclidean distances (N, N) of its rows, or their squares: 0 on the diagonal, at least 1e-6
    (squared 1e-12) elsewhere, with a gradient that is finite for equal rows."""
    products = gram(x - jnp.mean(x, axis=0))  # a part that all rows share would cancel and cost digits
    squares = jnp.diagonal(products)
    d = jnp.maximum(squares[:, None] + squares - 2 * products, TINY)
    return jnp.where(jnp.eye(len(x), dtype=bool), 0.0, d if squared else jnp.sqrt(d))


def pool_to(x: Array, size: Sequence[int]) -> Array:
    """(B, H, W, C) in another height and width: average-pooled along an axis that becomes shorter, else repeated.

    Where sizes do not divide, windows overlap, as in PyTorch's adaptive pooling. Repeating takes the nearest cell.
    """
    if x.shape[1:3] == tuple(size):
        return x
    rows, columns = (w / w.sum(1, keepdims=True) for w in map(windows, x.shape[1:3], size))
    rows, columns = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns, precision="highest")


def to_common_size(a: Array, b: Array) -> tuple[Array, Array]:
    """Two maps (B, H, W, *), at least float32: along each axis the larger one is average-pooled to the smaller size."""
    a, b = upcast(a, b)
    size = [min(pair) for pair in zip(a.shape[1:3], b.shape[1:3], strict=True)]
    return pool_to(a, size), pool_to(b, size)


def windows(have: int, want: int) -> np.ndarray:
    """(want, have) booleans: which of `have` cells each of `want` cells averages; the nearest if want > have."""
    i, j = np.arange(want)[:, None], np.arange(have)
    if want > have:
        return j == (2 * i + 1) * have // (2 * want)
    return (j >= i * have // want) & (j < -(-(i + 1) * have // want))


def mean_logits(outputs: tuple[Outputs, ...]) -> Array:
    """The logits (B, K) of one network or several, averaged."""
    return sum(each.logits for each in outputs) / len(outputs)
