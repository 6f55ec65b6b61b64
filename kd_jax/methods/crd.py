"""Contrastive representation distillation: heads, banks of embeddings, negatives drawn on the device."""

import math

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.layers.basic import linear
from kd_jax.layers.negatives import Table, draw, table
from kd_jax.losses.common import l2_normalize
from kd_jax.methods.base import fold, require, weigh
from kd_jax.methods.stages import pooled
from kd_jax.typing import Array, Distiller, InitContext, Need, PyTree, RowUpdate, Schedule, Vars, View


def crd(
    *,
    weight: float | Schedule = 0.8,
    dim: int = 128,
    negatives: int = 16384,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> Distiller:
    """CRD: what the student says of an example is to be told by what the teacher said of it, and the reverse, among
    what they said of many examples of other classes.

        weight mean_b kd_jax.losses.crd(s, t, banks, drawn negatives, constants)_b,
        s = l2_normalize(W_s f_S + b_s), t alike
        bank[index] <- l2_normalize(momentum bank[index] + (1 - momentum) s),   after the loss has read it; t alike

    f are the pooled features; both linear heads are trained along with the student. A bank holds for every example of
    the training set what its network last said of it, and starts uniform in +-sqrt(3 / dim), not of length 1. The
    negatives are drawn anew for every example and step, from the examples of other classes, without repeats
    (kd_jax.layers.negatives). The first training step sets the constants that scores are divided by
    (kd_jax.losses.crd_scales), uses them, and they stay. With train=False nothing is set or written. Of several
    teachers the first is read.

    The banks take 2 N dim floats, as part of the state and of a checkpoint: 51 MB for CIFAR, 1.3 GB for ImageNet.
    A step takes some arrays of B N floats beside: 13 MB and, at B = 64, 330 MB each.

    Args:
      weight: a number, or a schedule of the step.
      dim: >= 1, width of the embeddings.
      negatives: from 1 to 2^31 - 1, for every example.
      temperature: > 0.
      momentum: in [0, 1], share of a bank's row that stays.

    Raises:
      ValueError: an argument outside its range; when variables are made, a training set without labels or of one
        class, or batches without indices.

    Reference: Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv 1910.10699.
    Differs: where fewer examples of other classes are there than negatives, each comes equally often, or once more;
      the published code draws with repeats then. An embedding or a row of zeros stays zeros, where the published code
      has NaN. In the first step alone, the gradient goes through the constants too, which moves it by about 1e-5 of
      its length at the defaults; the published code detaches them. kd_jax.losses.crd says what differs from the
      paper. Under scope="device" the first step of every device uses constants of its own, and their mean stays;
      negatives do not depend on the devices.
    """
    require(
        "crd",
        dim=(dim, dim >= 1, "at least 1"),
        negatives=(negatives, 1 <= negatives < 2**31, "from 1 to 2^31 - 1"),
        temperature=(temperature, 0 < temperature < math.inf, "a finite number above 0"),
        momentum=(momentum, 0 <= momentum <= 1, "from 0 to 1"),
    )

    def init(key: Array, context: InitContext) -> Vars:
        view, found = context.view_shapes, _table(context)
        _index(view)
        params, banks, unset = {}, {}, {}
        for seat, outputs in pooled(view).items():
            width, bound = outputs.shape[-1], (3 / dim) ** 0.5
            params[seat] = linear(dim, width, name=seat).init(fold(key, seat), jnp.zeros((1, width)))["params"]
            shape = (context.num_examples, dim)
            banks[seat] = jax.random.uniform(fold(key, f"{seat}.bank"), shape, jnp.float32, -bound, bound)
            unset[seat] = jnp.zeros((), jnp.float32)
        return Vars(params, {"bank": banks, "scale": unset, "negatives": found}, {})

    def embed(params: PyTree, view: View) -> dict[str, Array]:
        return {
            seat: l2_normalize(linear(dim, f.shape[-1], name=seat).apply({"params": params[seat]}, f))
            for seat, f in pooled(view).items()
        }

    def apply(vars: Vars, view: View, key: Array, train: bool):
        index, old, known = _index(view), vars.stats["bank"], vars.stats["scale"]
        said = embed(vars.params, view)
        drawn = draw(vars.stats["negatives"], key, labels=view.labels, index=index, count=negatives)
        given = said | {f"{seat}_bank": bank for seat, bank in old.items()}
        given |= {"index": index, "negatives": drawn, "temperature": temperature}
        value = losses.crd(**given, **{f"{seat}_scale": x for seat, x in known.items()})
        if not train:
            return view, {"": value}, {}, vars.stats
        rows = {seat: l2_normalize(momentum * old[seat][index] + (1 - momentum) * said[seat]) for seat in said}
        banks = {seat: RowUpdate(old[seat], index, rows[seat]) for seat in said}
        first = dict(zip(said, losses.crd_scales(**given), strict=True))
        scale = {seat: jnp.where(x == 0, first[seat].astype(x.dtype), x) for seat, x in known.items()}
        return view, {"": value}, {}, vars.stats | {"bank": banks, "scale": scale}

    bank = {"": "reads a bank of features before the whole batch is written there"}
    return weigh(Distiller(init, apply, frozenset({Need.TEACHER_POOLED, Need.INDEX}), whole_batch=bank), weight)


def _index(view: View) -> Array:
    if view.index is None:
        raise ValueError("crd: needs the examples' positions in the training set (index), and the batch has none")
    return view.index


def _table(context: InitContext) -> Table:
    """What negatives are drawn by."""
    have = 0 if context.labels is None else len(context.labels)
    if not have or have != context.num_examples:
        raise ValueError(f"crd: needs the label of every training example, got {have} of {context.num_examples}")
    return table(context.labels, context.num_classes)
