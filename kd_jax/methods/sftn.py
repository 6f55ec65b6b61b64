"""SFTN: train the teacher together with student branches, so that it is easy to learn from."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax import losses, models
from kd_jax.layers.transform import FORMS, Transform
from kd_jax.methods.base import fold, identity, require, run, weigh
from kd_jax.methods.stages import as_map, is_tokens, maps_of
from kd_jax.typing import Array, AuxNetwork, Distiller, InitContext, Monitor, Schedule, Variables, Vars, View

WATCH = (Monitor("branch*/top1", unit="share of examples"), Monitor("branch*/kl", unit="nats"))


class Branch(NamedTuple):
    """One branch: from stage `start` of the teacher into the student behind its stage `enter`, of the shape `entry`."""

    start: int
    enter: int
    entry: tuple[int, ...]
    transform: Transform

    @property
    def name(self) -> str:
        return f"branch{self.start}"


def sftn_branches(
    *,
    student: str = "resnet8x4",
    weight: float | Schedule = 1.0,
    lambda_ce: float = 1.0,
    lambda_kl: float = 3.0,
    temperature: float = 1.0,
    stages: str = "",
    transform: str = "conv3x3",
    share: bool = False,
    detach_target: bool = False,
) -> Distiller:
    """Student branches on a teacher in training: a criterion of the teacher's own phase.

    The network in training is the future teacher, so it sits in the view's seat `student`, and there is no
    teacher yet. Branch i leaves the teacher behind its stage i, passes a transform layer that gives the map the
    shape of the student's stage, and goes on through the student's later stages to a classifier of its own:

        lambda_ce mean_i CE(branch_i, labels) + lambda_kl mean_i T^2 KL(teacher || branch_i)

    beside the recipe's own `ce` of the teacher. The branches belong to the method: they are saved with the
    phase, and whoever uses the teacher does not see them.

    Args:
      student: name of the network whose later stages form the branches (any: it need not be the one distilled).
      weight: of the whole, a number or a schedule of the step.
      lambda_ce: >= 0, weight of the branches' task loss.
      lambda_kl: >= 0, weight of the divergence; with both 0 there are no branches at all.
      temperature: T > 0 of the divergence.
      stages: where branches go, "TEACHER:STUDENT,..." by index in `Outputs.stages`; "" pairs the last stages
        of both from the output side, the stem and the last stage left out.
      transform: form of the transform layer, "conv3x3" or "conv1x1" (kd_jax.layers.transform).
      share: True: all branches pass the same student stages and classifier; False: each has its own.
      detach_target: True: the divergence does not move the teacher's logits, only its features.

    Returns:
      A Distiller with the terms ce and kl. Logs, for every branch: top1, and kl in nats (without T^2).

    Raises:
      ValueError: an argument outside its range, an unknown network, a stage that one of the two has not.

    Reference: Park, Cha, Jeong, Kim, Han, "Learning Student-Friendly Teacher Networks for Knowledge
      Distillation", 2021, arXiv 2102.07650.
    Differs: no official code is available; the wiring and the three losses are the paper's, the weights 1, 1
      and 3 and T = 1 are recalled from it, not re-read. Ours, because it leaves them open to us: the form of the
      transform, branches that share nothing, the divergence's gradient going into both sides, T^2, and the
      stages of networks that are built differently. It has no transformers: a teacher's tokens are read as the map
      of their patches, the class token left out; into a student with tokens a branch brings the map's cells, its
      last ReLU left out, behind a learned class token (kd_jax.layers.transform).
    """
    finite = float("inf")
    require(
        "sftn_branches",
        lambda_ce=(lambda_ce, 0 <= lambda_ce < finite, "a finite number, at least 0"),
        lambda_kl=(lambda_kl, 0 <= lambda_kl < finite, "a finite number, at least 0"),
        temperature=(temperature, 0 < temperature < finite, "a finite number above 0"),
        transform=(transform, transform in FORMS, " or ".join(FORMS)),
        student=(student, ":" not in student, "a network with a classifier of its own"),
    )
    models.create(student, 2)  # an unknown name lists the known ones
    if lambda_ce == lambda_kl == 0:
        return identity()
    asked = _parsed(stages)

    @cache
    def branches(num_classes: int, image: tuple[int, ...], taught: tuple) -> tuple[nn.Module, tuple[Branch, ...]]:
        """The student and its branches on a network with stages of these shapes."""
        model = models.create(student, num_classes)
        stages = models.shapes(model, image)[1].stages

        def branch(i: int, j: int) -> Branch:
            layer = Transform(as_map(stages[j], image).shape[1:], transform, is_tokens(stages[j]))
            return Branch(i, j, stages[j].shape[1:], layer)

        return model, tuple(branch(*pair) for pair in _pairs(asked, len(taught), len(stages), student))

    def built(view: View) -> tuple[nn.Module, tuple[Branch, ...]]:
        taught = tuple(s.shape[1:] for s in view.student.stages)
        return branches(view.student.logits.shape[-1], view.image.shape[1:], taught)

    def init(key: Array, context: InitContext) -> Vars:
        view, params, stats = context.view_shapes, {}, {}
        model, parts = built(view)
        first = min(parts, key=lambda b: b.enter).name
        for b in parts:
            x = jnp.zeros((1, *maps_of(view, view.student)[b.start].shape[1:]))
            made = b.transform.init(fold(key, b.name), x)
            params[b.name], stats[b.name] = {"transform": made["params"]}, {"transform": made["batch_stats"]}
            if not share or b.name == first:
                own = models.init(model, fold(key, f"{b.name}/student"), jnp.zeros((1, *b.entry)), b.enter)
                place = "shared" if share else b.name
                params.setdefault(place, {})["student"] = own.params
                stats.setdefault(place, {})["student"] = own.stats
        return Vars(params, stats, {})

    def apply(vars: Vars, view: View, key: Array, train: bool):
        model, parts = built(view)
        stats, logits = dict(vars.stats), {}
        for b in parts:
            logits[b.name], stats = _run(model, b, vars.params, stats, view, train, "shared" if share else b.name)
        teacher = jax.lax.stop_gradient(view.student.logits) if detach_target else view.student.logits
        ce = {name: losses.cross_entropy(student=z, labels=view.labels) for name, z in logits.items()}
        kl = {name: losses.kd(student=z, teacher=teacher, temperature=temperature) for name, z in logits.items()}
        weighted = (("ce", lambda_ce, ce), ("kl", lambda_kl, kl))
        terms = {name: scale * sum(each.values()) / len(each) for name, scale, each in weighted if scale}
        logs = {f"{name}/kl": value / temperature**2 for name, value in kl.items()}
        for name, z in logits.items():
            logs[f"{name}/top1"] = (jnp.argmax(z, axis=-1) == view.labels).astype(jnp.float32)
        return view, terms, logs, stats

    def starts(vars: Vars) -> dict[str, AuxNetwork]:
        return {"": AuxNetwork(student, models.create(student, 2), largest_part(vars))}

    return weigh(Distiller(init, apply, monitors=WATCH, starts=starts), weight)


def largest_part(vars: Vars) -> Variables:
    """The largest part of the student that the branches of this criterion hold: of the earliest entry."""
    held = {name: part["student"] for name, part in vars.params.items() if "student" in part}
    name = max(held, key=lambda name: len(held[name]))
    return Variables(held[name], vars.stats[name]["student"])


def _run(model, branch: Branch, params, stats, view: View, train: bool, place: str):
    """Logits of a branch, and the statistics moved."""
    own, kept = params[branch.name]["transform"], stats[branch.name]["transform"]
    x, moved = run(branch.transform, own, kept, maps_of(view, view.student)[branch.start], train=train)
    net = Variables(params[place]["student"], stats[place]["student"])
    outputs, after = models.apply(model, net, x, train, after=branch.enter)
    stats = {**stats, branch.name: {**stats[branch.name], "transform": moved}}
    return outputs.logits, {**stats, place: {**stats[place], "student": after}}


def _parsed(stages: str) -> tuple[tuple[int, int], ...]:
    """(teacher's stage, student's stage) of every branch that is asked for."""
    try:
        pairs = tuple(tuple(map(int, pair.split(":"))) for pair in stages.split(",") if pair.strip())
        if any(len(pair) != 2 for pair in pairs) or len({pair[0] for pair in pairs}) < len(pairs):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"sftn_branches: stages must be TEACHER:STUDENT,... with each teacher stage once, got {stages!r}"
        ) from None
    return pairs


def _pairs(asked: tuple, teacher: int, student: int, name: str) -> tuple[tuple[int, int], ...]:
    """The branches between networks with so many stages, the stem counted."""
    paired = min(teacher, student) - 2  # stages between stem and last one that both have
    found = asked or tuple((teacher - 1 - k, student - 1 - k) for k in range(paired, 0, -1))
    if not found or not all(0 <= i < teacher and 0 <= j < student for i, j in found):
        raise ValueError(
            f"sftn_branches: stages {', '.join(f'{i}:{j}' for i, j in found) or 'none'}: the teacher has stages "
            f"0 to {teacher - 1}, {name} has 0 to {student - 1}"
        )
    return found
