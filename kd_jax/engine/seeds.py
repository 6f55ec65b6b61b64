"""Several seeds in one program: the loop steps of all of them, on one batch and one pass of the teachers.

A convolution under vmap has a kernel for every seed. GPUs and TPUs take that well; a CPU takes it two to four times
slower than one seed after the other, so there the step of one seed is called for each of them (`one_by_one`). That is
the same program for any number of seeds: it compiles once, needs the memory of one, and gives each seed the bits that
it has alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.engine.loop import LoopState
from kd_jax.typing import Array, PyTree


class PerSeed(NamedTuple):
    """What every seed has its own of, among inputs that all seeds share: the outputs of a teacher that is the student's
    average."""

    values: tuple


def of_seed(inputs: PyTree, i: int) -> PyTree:
    """The inputs of the i-th seed."""
    return _replace(lambda each: each.values[i], lambda shared: shared, inputs)


def one_by_one(step: Callable, loops: tuple[LoopState, ...], inputs: tuple, keys: tuple[Array, ...]):
    """Take a step of every seed, one after the other.

    Args:
      step: (loop state, *inputs, key) -> loop state.
      loops: of every seed.
      inputs: shared, but for what is PerSeed.
      keys: of every seed.

    Returns:
      The loop states of every seed.
    """
    return tuple(step(loop, *of_seed(inputs, i), keys[i]) for i, loop in enumerate(loops))


def at_once(step: Callable, loops: tuple[LoopState, ...], inputs: tuple, keys: tuple[Array, ...]):
    """The same by one vmapped step. Arguments and result as for `one_by_one`."""
    axes = _replace(lambda _: 0, lambda _: None, inputs)
    inputs = _replace(lambda each: _stack(each.values), lambda shared: shared, inputs)
    stacked = jax.vmap(step, in_axes=(0, *axes, 0))(_stack(loops), *inputs, jnp.stack(keys))
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(loops)))


def vmaps() -> bool:
    """Whether several seeds are vmapped on this machine's devices."""
    return jax.default_backend() != "cpu"


def _stack(trees: tuple[PyTree, ...]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _replace(per_seed: Callable[[PerSeed], Any], shared: Callable[[Any], Any], inputs: PyTree) -> PyTree:
    """A tree with something in place of what is PerSeed, and of each other leaf."""

    def is_per_seed(x: Any) -> bool:
        return isinstance(x, PerSeed)

    return jax.tree.map(lambda x: per_seed(x) if is_per_seed(x) else shared(x), inputs, is_leaf=is_per_seed)
