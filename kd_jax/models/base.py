"""What every network shares: init, apply and tail.

A network is a flax.linen module `model(x, train=False, after=-1) -> Outputs`. With `after=i` it
takes `stages[i]` in place of an image and runs only what follows: that is all that student
branches on a teacher need.

Modules are named so that a parameter's path, joined by dots, is its name in the published PyTorch
code: layer1/0/conv1/kernel is `layer1.0.conv1.weight` (see weights.py).
"""

import math
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.typing import Array, InputError, Outputs, PyTree, Variables


class Net(nn.Module, kw_only=True):
    """What every network can be told beside its shape.

    precision: "float32", or "bfloat16", in which `apply` then computes: parameters and images are cast on the way in,
    Outputs on the way out are float32. Parameters themselves and BatchNorm's statistics are float32 in any case.
    remat: whether a backward pass computes the insides of the network's blocks again in place of keeping them.
    """

    precision: str = "float32"
    remat: bool = False


def block_of(cls: type[nn.Module], net: Net, *, train: bool = True) -> type[nn.Module]:
    """A block's class as `net` wants it. train: whether its call takes (x, train), or x alone."""
    return nn.remat(cls, static_argnums=(2,) if train else ()) if net.remat else cls


def with_options(model: nn.Module, **how) -> nn.Module:
    """A network with other fields of `Net`; so is a network inside of it.

    Raises:
      ValueError: a network that is no Net is to be other than the defaults.
    """
    if not isinstance(model, Net):
        for field, value in how.items():
            if value != getattr(Net, field):
                raise InputError(f"{field}={value}, but {type(model).__name__} is no kd_jax.models.base.Net")
        return model
    inner = {"student": with_options(model.student, **how)} if hasattr(model, "student") else {}
    return model.clone(**how, **inner)


def init(model: nn.Module, key: Array, x: Array, after: int = -1) -> Variables:
    """Fresh variables of `model` for inputs like x (B, H, W, C); the part after a stage if asked."""
    made = model.init(key, x, train=False, after=after)
    return Variables(made.get("params", {}), made.get("batch_stats", {}))


def apply(
    model: nn.Module, variables: Variables, image: Array, train: bool = False, after: int = -1
) -> tuple[Outputs, PyTree]:
    """Run the network.

    Args:
      model: a network of kd_jax.models.
      variables: its parameters and running statistics.
      image: (B, H, W, C), already normalised with the mean and deviation the network goes with.
      train: BatchNorm over the batch, running statistics moved; else running statistics, kept.
      after: i to continue from `image = stages[i]` instead.

    Returns:
      (Outputs, stats): stats are the moved running statistics, or those given when not training.
    """
    precision = getattr(model, "precision", "float32")  # any module that returns Outputs will do
    params, image = _cast((variables.params, image), precision)
    tree = {"params": params, "batch_stats": variables.stats}
    if not train:
        return _cast(model.apply(tree, image, train=False, after=after), "float32", of=precision), variables.stats
    outputs, moved = model.apply(tree, image, train=True, after=after, mutable=["batch_stats"])
    return _cast(outputs, "float32", of=precision), moved.get("batch_stats", {})


def _cast(tree: PyTree, dtype: str, of: str = "float32") -> PyTree:
    """Floating-point leaves in another precision, of a network that computes in `of`; a float32 one's stay."""
    if dtype == of:
        return tree
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def tail(model: nn.Module, variables: Variables, x: Array, i: int, train: bool = False) -> Array:
    """Logits (B, K) of the network continued after `stages[i]` = x; the last i is pool and head.

    To train such a part, use `init` and `apply` with `after=i`, which return the statistics too.
    """
    return apply(model, variables, x, train, after=i)[0].logits


def trace(model: nn.Module, image_shape: tuple[int, ...], batch: int = 1) -> tuple[Variables, Outputs, Any]:
    """Shapes of the variables and of Outputs for images (H, W, C), and the jaxpr of the logits in evaluation
    mode, without computing anything or asking for a device."""
    image = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    variables = jax.eval_shape(partial(init, model), jax.eval_shape(jax.random.key, 0), image)
    seen = []  # on the way, for a second trace would take as long as the first

    def logits(variables: Variables, image: Array) -> Array:
        outputs, _ = apply(model, variables, image)
        seen.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), outputs))
        return outputs.logits

    jaxpr = jax.make_jaxpr(logits)(variables, image)
    return variables, seen[0], jaxpr


def shapes(model: nn.Module, image_shape: tuple[int, ...], batch: int = 1) -> tuple[Variables, Outputs]:
    """Shapes of the variables and of Outputs for images (H, W, C), without computing anything or asking for a device.
    The variables are not to be changed in place: the next call for the same network returns the same."""
    variables, outputs = _shapes_of_one(model, tuple(image_shape))
    return variables, jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), outputs)


@lru_cache(maxsize=256)
def _shapes_of_one(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[Variables, Outputs]:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    outputs, variables = jax.eval_shape(model.init_with_output, jax.eval_shape(jax.random.key, 0), image)
    return Variables(variables.get("params", {}), variables.get("batch_stats", {})), outputs


def count_multiply_adds(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Multiply-adds that the convolutions and matrix products of one image (H, W, C) take in evaluation.

    As the published tables count them: zeros of the padding included; biases, normalisation, activations
    and pooling left out.
    """
    return multiply_adds(trace(model, image_shape)[2])


def multiply_adds(jaxpr: Any) -> int:
    """Multiply-adds of the convolutions and matrix products in a jaxpr and in those it calls; what its outputs
    do not depend on is left out. A scan counts as often as it runs, a while loop once, a cond with every branch."""
    total, needed = 0, {id(v) for v in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if needed.isdisjoint(map(id, eqn.outvars)):
            continue
        needed.update(map(id, eqn.invars))
        made = eqn.outvars[0].aval.size
        if eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval  # holds the channels of one group only
            total += made * kernel.size // kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += made * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        else:
            times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            total += times * sum(multiply_adds(p) for p in jax.tree.leaves(eqn.params) if hasattr(p, "eqns"))
    return total


def count_parameters(params: PyTree) -> int:
    """Number of trainable values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
