"""SKD's learning simplifier: one attention block over teacher logits, as a pure init / apply pair.

"Attention over logits" can be read in two ways. The paper's abstract does not decide:
- tokens="batch": the B examples of the batch are the tokens, rows of C logits their features;
- tokens="classes": each example alone, its C classes are the tokens; a token is a learned direction, scaled by
  the class's logit, plus a learned embedding of the class.

`pool` makes one number of an example, by one learned query that attends to its classes.
"""

import jax
import jax.numpy as jnp

from kd_jax.typing import Array, PyTree

TOKENS = ("batch", "classes")
CLASS_WIDTH = 16
START = 4.0  # what `pool` gives for every example at the start
_lecun = jax.nn.initializers.lecun_normal()


def standardize_rows(u: Array) -> Array:
    """Rows of (B, C) with mean 0 and deviation 1; a constant row becomes 0."""
    centred = u - jnp.mean(u, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def init(key: Array, *, num_classes: int, tokens: str, width: int | None, zero_output: bool) -> PyTree:
    """Parameters of the block.

    Args:
      key: PRNG key.
      num_classes: C.
      tokens: "batch" or "classes".
      width: d of queries, keys and values; None takes min(C, 128) for batch tokens and 16 for
        class tokens.
      zero_output: start with an output of exactly 0.
    """
    batch = tokens == "batch"
    d = width or (min(num_classes, 128) if batch else CLASS_WIDTH)
    names = ("query", "key", "value", "output", "direction", "embedding")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    rows, out = (num_classes, num_classes) if batch else (d, 1)
    params = {name: _lecun(keys[name], (rows, d)) for name in names[:3]}
    params["output"] = jnp.zeros((d, out)) if zero_output else _lecun(keys["output"], (d, out))
    return params if batch else params | _class_params(keys, num_classes, d)


def apply(params: PyTree, u: Array, *, tokens: str) -> Array:
    """Attend over u (B, C) and return the block's output (B, C).

    With batch tokens the scores are B x B, with class tokens B times C x C.
    """
    x = u if tokens == "batch" else _class_tokens(params, u)
    query, key, value = (x @ params[name] for name in ("query", "key", "value"))
    scores = query @ jnp.swapaxes(key, -1, -2) / query.shape[-1] ** 0.5
    mixed = jax.nn.softmax(scores) @ value @ params["output"]
    return mixed if tokens == "batch" else mixed[..., 0]


def init_pool(key: Array, *, num_classes: int, width: int | None) -> PyTree:
    """Parameters of `pool`, whose output is START at first.

    Args:
      key: PRNG key.
      num_classes: C.
      width: d; None takes 16.
    """
    d = width or CLASS_WIDTH
    names = ("query", "key", "value", "direction", "embedding")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    params = {name: _lecun(keys[name], (d, d)) for name in ("key", "value")}
    params["query"] = jax.random.normal(keys["query"], (d,))
    return params | _class_params(keys, num_classes, d) | {"output": jnp.zeros((d, 1)), "bias": jnp.full((1,), START)}


def pool(params: PyTree, u: Array) -> Array:
    """One number for each example: u (B, C) to (B, 1)."""
    x = _class_tokens(params, u)
    scores = x @ params["key"] @ params["query"] / params["query"].shape[-1] ** 0.5
    mixed = jnp.einsum("bc,bcd->bd", jax.nn.softmax(scores), x @ params["value"])
    return mixed @ params["output"] + params["bias"]


def _class_params(keys: dict[str, Array], num_classes: int, d: int) -> dict[str, Array]:
    """What makes tokens of classes; normal numbers."""
    shapes = {"direction": (d,), "embedding": (num_classes, d)}
    return {name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()}


def _class_tokens(params: PyTree, u: Array) -> Array:
    """u (B, C) as tokens (B, C, d)."""
    return u[..., None] * params["direction"] + params["embedding"]
