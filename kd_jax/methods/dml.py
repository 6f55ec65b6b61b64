"""DML: two networks train side by side, and each learns from what the other predicts."""

import jax
import jax.numpy as jnp

from kd_jax import losses, models
from kd_jax.methods.base import fold, require
from kd_jax.models.graft import head_of
from kd_jax.typing import Array, AuxNetwork, Distiller, InitContext, Monitor, Schedule, Variables, Vars, View

WATCH = (Monitor("peer/top1", unit="share of examples"),)


def dml(*, weight: float | Schedule = 1.0, peer: str = "resnet32", temperature: float = 1.0) -> Distiller:
    """Deep mutual learning: a peer trains beside the student, and each is to predict what the other does.

        CE(peer, labels) + weight T^2 ( KL(peer || student) + KL(student || peer) )

    beside the recipe's own `ce` of the student. The first divergence moves the student alone, its peer detached;
    the second the peer alone, its student detached. The peer sees the images that the student sees, and starts
    elsewhere: its parameters, BatchNorm statistics and key are the method's. Nobody needs a teacher; hence the raw
    logits of both are compared, not the pair in `match`, and no refiner reaches this criterion.

    Args:
      weight: of the two divergences, a number or a schedule of the step; never of the peer's task loss. With 0 they
        are left out: both networks train exactly as each would by itself.
      peer: name of the network that trains beside the student, the student's own or another.
      temperature: T > 0 of both divergences.

    Returns:
      A Distiller with the terms ce (the peer's task loss), student and peer (the divergence that moves it), and one
      network of its own, "" (in a chain, the member's label). Logs: peer/top1.

    Raises:
      ValueError: an unknown network or one that cannot be a peer, a weight that is not finite, a temperature that is
        not above 0.

    Reference: Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2017, arXiv 1706.00384.
    Differs: the paper updates the two in turn, each from predictions that the other makes after its own update; here
      both descend in one step, from predictions of one moment. The paper has T = 1, weight 1, and no factor T^2.
    """
    fixed, finite = not callable(weight), float("inf")
    require(
        "dml",
        weight=(weight, not fixed or abs(weight) < finite, "a finite number or a schedule"),
        temperature=(temperature, 0 < temperature < finite, "a finite number above 0"),
        peer=(peer, ":" not in peer, "a network with a classifier of its own"),
    )
    models.create(peer, 2)  # an unknown name lists the known ones
    mutual = not (fixed and weight == 0)

    def init(key: Array, context: InitContext) -> Vars:
        image = jnp.zeros((1, *context.view_shapes.image.shape[1:]))
        own = models.init(models.create(peer, context.num_classes), fold(key, "peer"), image)
        return Vars({"peer": own.params}, {"peer": own.stats}, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        ours = view.student.logits
        model, own = models.create(peer, ours.shape[-1]), Variables(vars.params["peer"], vars.stats["peer"])
        outputs, moved = models.apply(model, own, view.image, train)
        theirs = outputs.logits
        terms = {"ce": losses.cross_entropy(student=theirs, labels=view.labels)}
        if mutual:
            factor = weight if fixed else weight(view.step)
            for name, learner, other in (("student", ours, theirs), ("peer", theirs, ours)):
                target = jax.lax.stop_gradient(other)
                terms[name] = factor * losses.kd(student=learner, teacher=target, temperature=temperature)
        logs = {"peer/top1": (jnp.argmax(theirs, axis=-1) == view.labels).astype(jnp.float32)}
        return view, terms, logs, {"peer": moved}

    def networks(vars: Vars) -> dict[str, AuxNetwork]:
        own = Variables(vars.params["peer"], vars.stats["peer"])
        return {"": AuxNetwork(peer, models.create(peer, head_of(own)["bias"].shape[0]), own)}

    return Distiller(init, apply, monitors=WATCH, networks=networks)
