"""DOT: the task loss and the distillation loss, each with a momentum of its own; and who reaches which parameter."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax

from kd_jax.engine.optim import grouped, sgd
from kd_jax.methods.base import require
from kd_jax.typing import Array, PyTree, Schedule


def dot(
    schedule: Schedule,
    *,
    reached: tuple[PyTree, PyTree],
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 5e-4,
    rates: Mapping[str, float] = MappingProxyType({}),
) -> optax.GradientTransformation:
    """Distillation-oriented training: SGD in which the gradient of distillation has more momentum than the task's.

        v_task  <- (momentum - delta) v_task  + g_task + weight_decay p
        v_other <- (momentum + delta) v_other + g_other
        p       <- p - rate (v_task + v_other)

    of a parameter that both losses reach. One that a single loss reaches, or none, has one buffer, with `momentum`,
    which takes g_task + g_other + weight_decay p. With delta = 0 all is SGD on the sum of the gradients.

    Args:
      schedule: the learning rate.
      reached: of the task loss and of the other, a tree of booleans like the parameters (`loss_dependencies`).
      momentum: in [0, 1).
      delta: 0, or below momentum and 1 - momentum; published: 0.075 for CIFAR-100, 0.09 for ImageNet.
      weight_decay: at least 0.
      rates: path of a member -> multiple of the learning rate, as in `optim.grouped`.

    Returns:
      A transformation whose `update` takes the pair (gradient of the task loss, gradient of the other).

    Raises:
      ValueError: an argument out of range.

    Reference: Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", 2023, arXiv 2307.08436.
    Differs: in the published code a parameter that only distillation reaches is not decayed at the first step, and one
      that no loss reaches never; here every parameter decays at every step, as in kd_jax's SGD. That code takes one
      learning rate for all parameters.
    """
    require(
        "dot",
        momentum=(momentum, 0 <= momentum < 1, "in [0, 1)"),
        delta=(delta, delta == 0 or 0 < delta < min(momentum, 1 - momentum), "0, or below momentum and 1 - momentum"),
        weight_decay=(weight_decay, 0 <= weight_decay < float("inf"), "a finite number, at least 0"),
    )
    by_task, by_other = reached
    # which buffer of a parameter takes the gradient of one loss, where it has such a buffer
    kinds = (
        jax.tree.map(lambda t, o: "shared" if t and o else "none" if o else "alone", by_task, by_other),
        jax.tree.map(lambda t, o: "shared" if t and o else "alone" if o else "none", by_task, by_other),
    )

    def buffers(kind: PyTree, shift: float, decay: float) -> optax.GradientTransformation:
        settings = {"shared": (momentum + shift, decay), "alone": (momentum, weight_decay)}
        parts = {name: partial(sgd, momentum=m, weight_decay=w) for name, (m, w) in settings.items()}
        used = set(jax.tree.leaves(kind))
        made = {name: grouped(make, schedule, rates) for name, make in parts.items() if name in used}
        return optax.partition({**made, "none": optax.set_to_zero()}, kind)

    both = buffers(kinds[0], -delta, weight_decay), buffers(kinds[1], delta, 0.0)

    def init(params: PyTree) -> tuple:
        return tuple(tx.init(params) for tx in both)

    def update(grads: tuple[PyTree, PyTree], state: tuple, params: PyTree = None):
        done = [tx.update(g, s, params) for tx, g, s in zip(both, grads, state, strict=True)]
        (task, kept), (other, moved) = done
        return jax.tree.map(jnp.add, task, other), (kept, moved)

    return optax.GradientTransformation(init, update)


def loss_dependencies(
    function: Callable[..., tuple[Array, Array]], params: PyTree, *given: PyTree
) -> tuple[PyTree, PyTree]:
    """Which parameters each of two losses is a differentiable function of, read from how it is computed.

    A parameter counts where a path of floating-point values leads to the loss, whatever the gradient along it; a
    detached value ends a path. Where a derivative is user-defined, every output is taken to depend on every input.

    Args:
      function: (params, *given) -> (loss (), loss ()); it is traced, nothing is computed.
      params: arrays, or their shapes.
      *given: its other arguments, likewise.

    Returns:
      Two trees of booleans like `params`.
    """
    jaxpr, structure = jax.make_jaxpr(function)(params, *given).jaxpr, jax.tree.structure(params)
    found = (_inputs(jaxpr, [i == j for j in range(2)]) for i in range(2))
    return tuple(jax.tree.unflatten(structure, flags[: structure.num_leaves]) for flags in found)


def _inputs(jaxpr, wanted: Sequence[bool]) -> list[bool]:
    """Of a jaxpr's inputs, those that one of the wanted outputs is a differentiable function of."""
    live = {id(v) for v, w in zip(jaxpr.outvars, wanted, strict=True) if w}
    for eqn in reversed(jaxpr.eqns):
        asked = [id(v) in live for v in eqn.outvars]
        if any(asked):
            read = zip(eqn.invars, _through(eqn, asked), strict=True)
            live |= {id(v) for v, needed in read if needed and _smooth(v)}
    return [id(v) in live for v in jaxpr.invars]


def _smooth(v) -> bool:
    """Whether a derivative can flow through a value: integers, booleans and keys have none."""
    return jnp.issubdtype(v.aval.dtype, jnp.inexact)


def _through(eqn, asked: Sequence[bool]) -> list[bool]:
    """The inputs of an operation that the outputs asked for depend on."""
    name, whole = eqn.primitive.name, [True] * len(eqn.invars)
    if name == "stop_gradient":
        return [False] * len(eqn.invars)
    if name == "cond":
        each = [_inputs(branch.jaxpr, asked) for branch in eqn.params["branches"]]
        return [False, *map(any, zip(*each, strict=True))]
    if name == "scan":
        return _through_scan(eqn, asked)
    parts = [getattr(p, "jaxpr", p) for p in jax.tree.leaves(eqn.params) if hasattr(p, "eqns")]
    fits = len(parts) == 1 and len(parts[0].invars) == len(whole) and len(parts[0].outvars) == len(asked)
    return _inputs(parts[0], asked) if fits and not name.startswith("custom_") else whole


def _through_scan(eqn, asked: Sequence[bool]) -> list[bool]:
    """What is carried out of a round is carried into the next: asked for until nothing more is."""
    consts, carried, body = eqn.params["num_consts"], eqn.params["num_carry"], eqn.params["jaxpr"].jaxpr
    while True:
        found = _inputs(body, asked)
        carry = [a or b for a, b in zip(asked, found[consts : consts + carried], strict=False)]
        if carry == list(asked[:carried]):
            return found[:consts] + carry + found[consts + carried :]
        asked = [*carry, *asked[carried:]]
