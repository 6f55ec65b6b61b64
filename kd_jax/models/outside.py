"""Teachers that are no networks of this package, with the face of one: a function that somebody wrote, and a table of
logits that are there already.

Initialised, both return zeros of the shapes that they will return: no function is called, no table is read.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.typing import Array, InputError, Outputs, PyTree, suggest


class FunctionNetwork(nn.Module):
    """A function as a network.

    call: (parameters, image) -> Outputs, image (B, H, W, C) in [0, 1]. parameters: name and shape of each array that it
    is called with; they are variables, so that no program holds them as constants. outputs: what it returns, as shapes.
    """

    call: Callable[[PyTree, Array], Outputs]
    parameters: tuple[tuple[str, jax.ShapeDtypeStruct], ...]
    outputs: Outputs
    takes_options = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        if self.is_initializing():
            for name, like in self.parameters:
                self.param(name, lambda _, like=like: jnp.zeros(like.shape, like.dtype))
            return jax.tree.map(lambda like: jnp.zeros((len(x), *like.shape[1:]), like.dtype), self.outputs)
        return self.call({name: self.get_variable("params", name) for name, _ in self.parameters}, x)


class LogitsTable(nn.Module):
    """Logits by the position of an example: its input is an index (B,), its one variable `logits` (N, K) a statistic,
    which is whole on every device."""

    num_classes: int
    takes_options = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        if self.is_initializing():
            return Outputs((), None, None, jnp.zeros((len(x), self.num_classes)))
        table = self.get_variable("batch_stats", "logits")
        return Outputs((), None, None, jnp.take(table, x, axis=0).astype(jnp.float32))


def as_outputs(result, batch_size: int, num_classes: int) -> Outputs:
    """What a function returned for a batch as Outputs in float32; parts that it did not return are () or None.

    Args:
      result: logits (B, K), a mapping with `logits` and other fields of Outputs, or Outputs.
      batch_size: B.
      num_classes: K.

    Raises:
      InputError: another type, name, shape or dtype; it says what is accepted.
    """
    if isinstance(result, Outputs):
        result = result._asdict()
    parts = dict(result) if isinstance(result, Mapping) else {"logits": result}
    for name in sorted(map(str, parts.keys() - set(Outputs._fields))):
        raise InputError(f"returns {name!r}; {suggest(name, Outputs._fields)}")
    maps = (batch_size, "H", "W", "C")
    accepted = {"stages": maps, "preacts": maps, "pooled": (batch_size, "D"), "logits": (batch_size, num_classes)}
    accepted["cam"] = (*maps[:3], num_classes)
    parts = {name: parts.get(name) for name in accepted}
    if parts["logits"] is None:
        raise InputError("returns no logits")
    for name, value in parts.items():
        several = name in ("stages", "preacts")
        arrays = [] if value is None else list(value) if several and isinstance(value, list | tuple) else [value]
        for array in arrays:
            _check(name, array, accepted[name])
        arrays = [jnp.asarray(array).astype(jnp.float32) for array in arrays]
        parts[name] = tuple(arrays) if several else arrays[0] if arrays else None
    if parts["preacts"] and (len(parts["preacts"]) != len(parts["stages"]) or parts["pooled"] is None):
        raise InputError("returns preacts; accepted: only with as many stages, and with pooled")
    return Outputs(**{**parts, "preacts": parts["preacts"] or None})


def _check(name: str, array, accepted: tuple) -> None:
    """Refuse what is no array of an accepted shape, or not of floating-point numbers."""
    wanted = f"floating-point numbers of shape ({', '.join(map(str, accepted))})"
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or dtype is None:
        raise InputError(f"returns a {type(array).__name__} as {name}; accepted: an array of {wanted}")
    pairs = zip(shape, accepted, strict=False)
    fits = len(shape) == len(accepted) and all(isinstance(size, str) or n == size for n, size in pairs)
    if not fits or not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"returns {name} of shape {tuple(shape)} and type {dtype}; accepted: {wanted}")
