"""CRD, contrastive representation distillation: an embedding in one network finds its example in the other network's.

    s = l2_normalize(W_s f_S + b_s), t alike;   kd_jax.losses.crd(s, t, banks, negatives, constants)
    bank[index] <- l2_normalize(momentum bank[index] + (1 - momentum) s),   t alike

Two banks hold the last embedding of every training example. The negatives are drawn on the device, from other classes.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.layers.basic import linear
from kd_jax.layers.negatives import Table, draw, table
from kd_jax.losses.common import l2_normalize
from kd_jax.methods.base import fold, require, weigh
from kd_jax.methods.stages import pooled
from kd_jax.typing import Array, Distiller, InitContext, InputError, Need, PyTree, RowUpdate, Schedule, Vars, View

NEEDS = frozenset({Need.TEACHER_POOLED, Need.INDEX, Need.LABELS})


def embed(params: PyTree, view: View, dim: int) -> dict[str, Array]:
    """Embeddings (B, dim) of length 1: of each network's pooled features, by its linear head."""
    heads = {seat: linear(dim, f.shape[-1], name=seat) for seat, f in pooled(view).items()}
    return {seat: l2_normalize(heads[seat].apply({"params": params[seat]}, f)) for seat, f in pooled(view).items()}


def crd(
    *,
    weight: float | Schedule = 0.8,
    dim: int = 128,
    negatives: int = 16384,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> Distiller:
    """CRD: a network's embedding of an example is to be recognised by the other network's, among negatives.

        weight mean_b kd_jax.losses.crd(s, t, banks, drawn negatives, constants)_b,
        s = l2_normalize(W_s f_S + b_s), t alike
        bank[index] <- l2_normalize(momentum bank[index] + (1 - momentum) s),   after the loss has read it; t alike

    f are the pooled features; both linear heads are trained together with the student. A bank holds, for every example
    of the training set, the moving average of its network's embeddings. Its values start uniform in +-sqrt(3 / dim),
    so that rows do not have length 1 at the start. The negatives are drawn anew for every example and step, from the
    examples of other classes, without repeats (kd_jax.layers.negatives). The first training step computes the
    constants that scores are divided by (kd_jax.losses.crd_scales) and uses them; they do not change after that. With
    train=False nothing is set or written. Of several teachers the first is read.

    The banks take 2 N dim floats, as part of the state and of a checkpoint: 51 MB for CIFAR, 1.3 GB for ImageNet.
    A step takes some arrays of B N floats in addition: 13 MB and, at B = 64, 330 MB each.

    Args:
      weight: a number, or a schedule of the step.
      dim: >= 1, width of the embeddings.
      negatives: from 1 to 2^31 - 1, for every example.
      temperature: > 0.
      momentum: in [0, 1], share of a bank's row that stays.

    Raises:
      InputError: an argument outside its range; when variables are made, a training set without labels or of one
        class, or batches without indices.

    Reference: Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv 1910.10699.
    Differs: where other classes have fewer examples than there are negatives, each comes equally often, or once more;
      the published code draws with repeats then. An embedding or a row of zeros stays zeros, where the published code
      has NaN. In the first step alone, the gradient goes through the constants too, which moves it by about 1e-5 of
      its length at the defaults; the published code detaches them. kd_jax.losses.crd lists what differs from the
      paper. Under scope="device" every device computes constants in the first step and uses them in it; after that
      all use their mean. Negatives do not depend on the devices.
    """
    require(
        "crd",
        dim=(dim, dim >= 1, "at least 1"),
        negatives=(negatives, 1 <= negatives < 2**31, "from 1 to 2^31 - 1"),
        temperature=(temperature, 0 < temperature < math.inf, "a finite number above 0"),
        momentum=(momentum, 0 <= momentum <= 1, "from 0 to 1"),
    )

    def apply(vars: Vars, view: View, key: Array, train: bool):
        index, bank, scale = _index(view), vars.stats["bank"], vars.stats["scale"]
        embedded = embed(vars.params, view, dim)
        drawn = draw(vars.stats["negatives"], key, labels=view.labels, index=index, count=negatives)
        inputs = embedded | {f"{seat}_bank": rows for seat, rows in bank.items()}
        inputs |= {"index": index, "negatives": drawn, "temperature": temperature}
        value = losses.crd(**inputs, **{f"{seat}_scale": x for seat, x in scale.items()})
        if not train:
            return view, {"": value}, {}, vars.stats
        rows = {s: l2_normalize(momentum * bank[s][index] + (1 - momentum) * embedded[s]) for s in embedded}
        new_bank = {seat: RowUpdate(bank[seat], index, rows[seat]) for seat in embedded}
        initial = dict(zip(embedded, losses.crd_scales(**inputs), strict=True))
        new_scale = {seat: jnp.where(x == 0, initial[seat].astype(x.dtype), x) for seat, x in scale.items()}
        return view, {"": value}, {}, vars.stats | {"bank": new_bank, "scale": new_scale}

    def init(key: Array, context: InitContext) -> Vars:
        negatives_table = _table(context)
        _index(context.view_shapes)
        params, banks, scales = {}, {}, {}
        for seat, features in pooled(context.view_shapes).items():
            width, bound = features.shape[-1], (3 / dim) ** 0.5
            params[seat] = linear(dim, width, name=seat).init(fold(key, seat), jnp.zeros((1, width)))["params"]
            shape = (context.num_examples, dim)
            banks[seat] = jax.random.uniform(fold(key, f"{seat}.bank"), shape, jnp.float32, -bound, bound)
            scales[seat] = jnp.zeros((), jnp.float32)  # not yet set
        return Vars(params, {"bank": banks, "scale": scales, "negatives": negatives_table}, {})

    whole_batch = {"": "reads a bank of features before the whole batch is written there"}
    return weigh(Distiller(init, apply, NEEDS, whole_batch=whole_batch), weight)


def _index(view: View) -> Array:
    """The examples' positions in the training set."""
    if view.index is None:
        raise InputError("crd: needs the examples' positions in the training set (index), and the batch has none")
    return view.index


def _table(context: InitContext) -> Table:
    """The table that negatives are drawn from."""
    count = 0 if context.labels is None else len(context.labels)
    if not count or count != context.num_examples:
        raise InputError(f"crd: needs the label of every training example, got {count} of {context.num_examples}")
    return table(context.labels, context.num_classes)
