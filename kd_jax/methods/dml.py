"""DML, deep mutual learning: two networks train side by side, and each learns from the other's predictions.

    CE(peer, labels) + weight T^2 ( KL(peer || student) + KL(student || peer) )

The terms stand beside the student's task loss. Each divergence moves one of the two networks.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses, models
from kd_jax.methods.base import fold, require
from kd_jax.methods.terms import LABELS, targets_of
from kd_jax.models.graft import head_of
from kd_jax.typing import Array, AuxNetwork, Distiller, InitContext, Monitor, Schedule, Variables, Vars, View

MONITORS = (Monitor("peer/top1", unit="share of examples"),)


def dml(*, weight: float | Schedule = 1.0, peer: str = "resnet32", temperature: float = 1.0) -> Distiller:
    """Deep mutual learning: a peer trains beside the student, and each is to predict what the other predicts.

        CE(peer, labels) + weight T^2 ( KL(peer || student) + KL(student || peer) )

    beside the recipe's `ce` of the student. The first divergence moves only the student (the peer is detached), the
    second only the peer (the student is detached). The peer reads the same images as the student and starts from other
    parameters: its parameters, BatchNorm statistics and key are the method's. There is no teacher: the raw logits of
    both are compared, not the pair in `match`, and no refiner changes them.

    Args:
      weight: of the two divergences, a number or a schedule of the step; not of the peer's task loss. With 0 they
        are left out: both networks train exactly as each would alone.
      peer: name of the network that trains beside the student, the same as the student's or another.
      temperature: T > 0 of both divergences.

    Returns:
      A Distiller with the terms ce (the peer's task loss), student and peer (each the divergence that moves that
      network), and one network beside the student, "" (in a chain, the member's label). Logs: peer/top1.

    Raises:
      InputError: an unknown network or one that cannot be a peer, a weight that is not finite, a temperature that is
        not above 0.

    Reference: Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2017, arXiv 1706.00384.
    Differs: the paper updates the two networks in turn, each on predictions that the other makes after its update; here
      one step updates both, on predictions before that step. The paper has T = 1, weight 1, and no factor T^2.
    """
    fixed, finite = not callable(weight), float("inf")
    require(
        "dml",
        weight=(weight, not fixed or abs(weight) < finite, "a finite number or a schedule"),
        temperature=(temperature, 0 < temperature < finite, "a finite number above 0"),
        peer=(peer, ":" not in peer, "a network with a classifier of its own"),
    )
    models.create(peer, 2)  # refuses an unknown name
    mutual = not (fixed and weight == 0)

    def init(key: Array, context: InitContext) -> Vars:
        image = jnp.zeros((1, *context.view_shapes.image.shape[1:]))
        variables = models.init(models.create(peer, context.num_classes), fold(key, "peer"), image)
        return Vars({"peer": variables.params}, {"peer": variables.stats}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        student, model = view.student.logits, models.create(peer, view.student.logits.shape[-1])
        outputs, stats = models.apply(model, _variables(vars), view.image, train)
        terms = {"ce": losses.cross_entropy(student=outputs.logits, labels=targets_of(view))}
        if mutual:
            factor = weight if fixed else weight(view.step)
            for name, learner, other in (("student", student, outputs.logits), ("peer", outputs.logits, student)):
                target = jax.lax.stop_gradient(other)
                terms[name] = factor * losses.kd(student=learner, teacher=target, temperature=temperature)
        logs = {"peer/top1": (jnp.argmax(outputs.logits, axis=-1) == view.labels).astype(jnp.float32)}
        return view, terms, logs, {"peer": stats}

    def networks(vars: Vars) -> dict[str, AuxNetwork]:
        classes = head_of(_variables(vars))["bias"].shape[0]
        return {"": AuxNetwork(peer, models.create(peer, classes), _variables(vars))}

    return Distiller(init, apply, LABELS, monitors=MONITORS, networks=networks)


def _variables(vars: Vars) -> Variables:
    """The peer's."""
    return Variables(vars.params["peer"], vars.stats["peer"])
