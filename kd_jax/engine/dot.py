"""DOT: the task loss and the distillation loss, each with a momentum of its own; and which parameters a loss reads."""

from collections.abc import Callable, Mapping
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
    dependencies: tuple[PyTree, PyTree] | None = None,
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 5e-4,
    lr_multipliers: Mapping[str, float] = MappingProxyType({}),
) -> optax.GradientTransformation:
    """Distillation-oriented training: SGD in which the gradient of distillation has more momentum than the task's.

        v_task  <- (momentum - delta) v_task  + g_task + weight_decay p
        v_other <- (momentum + delta) v_other + g_other
        p       <- p - rate (v_task + v_other)

    of a parameter that both losses depend on. A parameter of one loss alone, or of none, has one buffer, with
    `momentum`, which takes g_task + g_other + weight_decay p. With delta = 0 all is SGD on the sum of the gradients.

    Args:
      schedule: the learning rate.
      dependencies: of the task loss and of the other, a tree of booleans like the parameters (`loss_dependencies`);
        None, where delta is 0, for plain SGD, whose `update` takes one gradient.
      momentum: in [0, 1).
      delta: 0, or below momentum and 1 - momentum; published: 0.075 for CIFAR-100, 0.09 for ImageNet.
      weight_decay: at least 0.
      lr_multipliers: path of a member -> multiple of the learning rate, as in `optim.grouped`.

    Returns:
      A transformation whose `update` takes the pair (gradient of the task loss, gradient of the other).

    Raises:
      ValueError: an argument out of range; no dependencies where delta is not 0.

    Reference: Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", 2023, arXiv 2307.08436.
    Differs: in the published code a parameter that only distillation reaches is not decayed at the first step, and one
      that no loss reaches never; here every parameter decays at every step, as in kd_jax's SGD. That code takes one
      learning rate for all parameters.
    """
    how = {"momentum": momentum, "delta": delta, "weight_decay": weight_decay, "lr_multipliers": lr_multipliers}
    return two_momenta("dot", schedule, dependencies, **how)


def two_momenta(
    name: str, schedule: Schedule, dependencies: tuple[PyTree, PyTree] | None, *, momentum: float, delta: float,
    weight_decay: float, lr_multipliers: Mapping[str, float], decays_slow: bool = True,
) -> optax.GradientTransformation:  # fmt: skip
    """What `dot` says, of any two gradients: the first has less momentum, the second more. decays_slow: whether the
    weight decay of a parameter that both depend on goes with the first one, or with the second one."""
    require(
        name,
        momentum=(momentum, 0 <= momentum < 1, "in [0, 1)"),
        delta=(delta, delta == 0 or 0 < delta < min(momentum, 1 - momentum), "0, or below momentum and 1 - momentum"),
        weight_decay=(weight_decay, 0 <= weight_decay < float("inf"), "a finite number, at least 0"),
    )
    if dependencies is None:
        require(name, dependencies=(None, delta == 0, "two trees of booleans unless delta is 0"))
        return grouped(partial(sgd, momentum=momentum, weight_decay=weight_decay), schedule, lr_multipliers)
    by_task, by_other = dependencies
    buffers = partial(_buffers, schedule=schedule, lr_multipliers=lr_multipliers, alone=(momentum, weight_decay))
    task_labels = jax.tree.map(
        lambda t, o: "shared" if t and o else "alone" if t or not o else "none", by_task, by_other
    )
    other_labels = jax.tree.map(lambda t, o: "shared" if t and o else "alone" if o else "none", by_task, by_other)
    slow, fast = (weight_decay, 0.0) if decays_slow else (0.0, weight_decay)
    both = (
        buffers(task_labels, shared=(momentum - delta, slow)),
        buffers(other_labels, shared=(momentum + delta, fast)),
    )

    def init(params: PyTree) -> tuple:
        return tuple(tx.init(params) for tx in both)

    def update(grads: tuple[PyTree, PyTree], state: tuple, params: PyTree = None):
        (task, task_state), (other, other_state) = (
            tx.update(g, s, params) for tx, g, s in zip(both, grads, state, strict=True)
        )
        return jax.tree.map(jnp.add, task, other), (task_state, other_state)

    return optax.GradientTransformation(init, update)


def _buffers(labels: PyTree, *, schedule: Schedule, lr_multipliers: Mapping[str, float], **settings: tuple):
    """SGD for the gradient of one loss.

    Args:
      labels: a tree of names like the parameters; "none" leaves a parameter as it is, without a buffer.
      schedule, lr_multipliers: as for `dot`.
      **settings: name -> (momentum, weight decay) of the parameters with that label.
    """
    used = set(jax.tree.leaves(labels))
    groups = {
        name: grouped(partial(sgd, momentum=momentum, weight_decay=decay), schedule, lr_multipliers)
        for name, (momentum, decay) in settings.items()
        if name in used
    }
    return optax.partition({**groups, "none": optax.set_to_zero()}, labels)


def loss_dependencies(loss: Callable[..., Array], params: PyTree, *args: PyTree) -> PyTree:
    """Which parameters a loss is a differentiable function of, as JAX differentiates it.

    A parameter counts where a gradient arrives at it, whatever its value; none arrives through a detached value, an
    integer or a comparison. A user-defined derivative (`jax.custom_vjp`) hands one to each of its inputs.

    Args:
      loss: (params, *args) -> loss (); its gradient is traced, nothing is computed.
      params: arrays, or their shapes.
      *args: its other arguments, likewise.

    Returns:
      A tree of booleans like `params`.
    """
    leaves, structure = jax.tree.flatten(params)
    reached = [False] * len(leaves)

    def probed(leaves, *args):
        return loss(structure.unflatten([_probe(reached, i)(leaf) for i, leaf in enumerate(leaves)]), *args)

    jax.eval_shape(jax.grad(probed), leaves, *args)
    return structure.unflatten(reached)


def _probe(reached: list[bool], i: int) -> Callable[[Array], Array]:
    """The identity; while a gradient through it is traced, it notes in `reached[i]` that there is one."""

    @jax.custom_vjp
    def probe(x):
        return x

    def backward(_, gradient):
        reached[i] = True
        return (gradient,)

    probe.defvjp(lambda x: (x, None), backward)
    return probe
