"""What every network shares: init, apply and tail.

A network is a flax.linen module `model(x, train=False, after=-1) -> Outputs`. With `after=i` its input is
`stages[i]` in place of an image, and it runs only the layers behind that stage. Student branches on a teacher need
nothing else.

The path of a parameter, joined by dots, is its name in the published PyTorch code: layer1/0/conv1/kernel is
`layer1.0.conv1.weight` (see kd_jax.interop.state_dict).
"""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.typing import Array, InputError, Outputs, PyTree, Variables

DISTILL_HEAD = "head_dist"  # the classifier of a distillation token, by timm's name
DROP_PATH = "drop_path"  # the random numbers of stochastic depth, by flax's name
# class tokens and positions, of networks (timm's `no_weight_decay`) and of layers of methods
UNDECAYED = ("cls_token", "dist_token", "pos_embed", "positions")


class Net(nn.Module, kw_only=True):
    """The options that every network has.

    precision: of the computation in `apply`, "float32" or "bfloat16". `apply` casts parameters and images to it and
    casts Outputs back to float32. The stored parameters and BatchNorm's statistics are always float32.
    remat: whether a backward pass recomputes the activations inside the network's blocks in place of storing them.

    rectified, of a class: whether its stages come out of a ReLU.
    """

    rectified = True

    precision: str = "float32"
    remat: bool = False


def block_of(cls: type[nn.Module], net: Net, *, train: bool = True) -> type[nn.Module]:
    """The class of a block, with rematerialisation if `net.remat` is set. train: whether its call takes (x, train), or
    x alone."""
    return nn.remat(cls, static_argnums=(2,) if train else ()) if net.remat else cls


def with_options(model: nn.Module, **how) -> nn.Module:
    """A copy of the network with other values of the fields of `Net`. A graft's student gets them too. A module with
    `takes_options` False stays as it is.

    Raises:
      ValueError: the network is no `Net`, and a value differs from the default.
    """
    if not getattr(model, "takes_options", True):
        return model
    if not isinstance(model, Net):
        for field, value in how.items():
            if value != getattr(Net, field):
                raise InputError(f"{field}={value}, but {type(model).__name__} is no kd_jax.models.base.Net")
        return model
    inner = {"student": with_options(model.student, **how)} if hasattr(model, "student") else {}
    return model.clone(**how, **inner)


def init(model: nn.Module, key: Array, x: Array, after: int = -1) -> Variables:
    """Initial variables of `model` for inputs of the shape of x (B, H, W, C).

    after: i for the variables of the layers behind `stages[i]` alone; x is then such a stage.
    """
    collections = model.init(key, x, train=False, after=after)
    return Variables(collections.get("params", {}), collections.get("batch_stats", {}))


def apply(
    model: nn.Module,
    variables: Variables,
    image: Array,
    train: bool = False,
    after: int = -1,
    key: Array | None = None,
) -> tuple[Outputs, PyTree]:
    """Run the network.

    Args:
      model: a network of kd_jax.models.
      variables: its parameters and running statistics.
      image: (B, H, W, C), already normalised with the mean and deviation the network goes with.
      train: True normalises by the statistics of the batch and updates the running ones; False normalises by the
        running ones and leaves them as they are.
      after: i to run only the layers behind `stages[i]`; `image` is then that stage.
      key: of the random numbers of networks that draw some in training (a transformer's drop_path).

    Returns:
      (Outputs, stats): stats are the running statistics after the call.
    """
    precision = getattr(model, "precision", "float32")  # any module that returns Outputs will do
    params, image = _cast((variables.params, image), precision)
    tree = {"params": params, "batch_stats": variables.stats}
    if not train:
        return _cast(model.apply(tree, image, train=False, after=after), "float32", of=precision), variables.stats
    how = {} if key is None else {"rngs": {DROP_PATH: key}}
    outputs, moved = model.apply(tree, image, train=True, after=after, mutable=["batch_stats"], **how)
    return _cast(outputs, "float32", of=precision), moved.get("batch_stats", {})


def _cast(tree: PyTree, dtype: str, of: str = "float32") -> PyTree:
    """The tree with its floating-point leaves cast to `dtype`; the same tree where `of` is `dtype` already."""
    if dtype == of:
        return tree
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def tail(model: nn.Module, variables: Variables, x: Array, i: int, train: bool = False) -> Array:
    """Logits (B, K) that the layers behind `stages[i]` compute from x. Behind the last stage these are pool and head.

    To train these layers, use `init` and `apply` with `after=i`, which return the statistics too.
    """
    return apply(model, variables, x, train, after=i)[0].logits


def trace(model: nn.Module, image_shape: tuple[int, ...], batch: int = 1) -> tuple[Variables, Outputs, Any]:
    """Shapes of the variables and of Outputs for images (H, W, C), and the jaxpr of the logits in evaluation
    mode, without computing anything or asking for a device."""
    image = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    traced = []  # on the way, for a second trace would take as long as the first

    def logits(key: Array, image: Array) -> Array:
        outputs, variables = model.init_with_output(key, image)
        traced.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (variables, outputs)))
        return outputs.logits

    jaxpr = jax.make_jaxpr(logits)(jax.eval_shape(jax.random.key, 0), image)
    variables, outputs = traced[0]
    return Variables(variables.get("params", {}), variables.get("batch_stats", {})), outputs, jaxpr


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
    """Multiply-adds of the convolutions and matrix products for one image (H, W, C) in evaluation mode.

    The count is that of the published tables: it includes products with the zeros of the padding, and leaves out
    biases, normalisation, activations and pooling. XLA's cost analysis, and flax's tabulate that prints it, count
    otherwise: half their flops are 7 % below (imagenet_ResNet18) to 6 % above (vit_tiny_patch16_224) this count.
    """
    return multiply_adds(trace(model, image_shape)[2])


def multiply_adds(jaxpr: Any) -> int:
    """Multiply-adds of the convolutions and matrix products in a jaxpr and in the jaxprs that it calls.

    It leaves out equations that no output depends on. It counts the body of a scan as often as it runs, the body of a
    while loop once, and every branch of a cond; of programs for one function by platform the default, which has
    the layers as they are written.
    """
    total, needed = 0, {id(v) for v in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if needed.isdisjoint(map(id, eqn.outvars)):
            continue
        needed.update(map(id, eqn.invars))
        output_size = eqn.outvars[0].aval.size
        if eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval  # holds the channels of one group only
            total += output_size * kernel.size // kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += output_size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        else:
            times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            by_platform = None in (eqn.params.get("branches_platforms") or ())
            programs = eqn.params["branches"][-1] if by_platform else eqn.params
            total += times * sum(multiply_adds(p) for p in jax.tree.leaves(programs) if hasattr(p, "eqns"))
    return total


def count_parameters(params: PyTree) -> int:
    """Number of trainable values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
