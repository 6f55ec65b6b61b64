"""SFTN: train the teacher together with student branches, so that the student can learn from it easily.

    branch i:  stage i of the teacher -> transform layer -> later stages of the student -> classifier
    lambda_ce mean_i CE(branch_i, labels) + lambda_kl mean_i T^2 KL(teacher || branch_i)

The terms stand beside the teacher's own task loss, in the teacher's phase.
"""

import math
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax import losses, models
from kd_jax.layers.transform import FORMS, Transform
from kd_jax.methods.base import fold, identity, require, run, weigh
from kd_jax.methods.stages import as_map, is_tokens, maps_of
from kd_jax.methods.terms import LABELS, targets_of
from kd_jax.typing import (
    Array,
    AuxNetwork,
    Distiller,
    InitContext,
    InputError,
    Logs,
    Monitor,
    Schedule,
    Terms,
    Variables,
    Vars,
    View,
)  # fmt: skip


class Branch(NamedTuple):
    """One branch: from stage `start` of the teacher into the student behind its stage `enter`.

    entry: shape of the student's stage `enter`, without B. student: name of the part of the method's variables that
    holds the branch's student stages: its own name, or "shared".
    """

    start: int
    enter: int
    entry: tuple[int, ...]
    transform: Transform
    student: str

    @property
    def name(self) -> str:
        """Name of the branch in variables and logs."""
        return f"branch{self.start}"

    def logits(self, model: nn.Module, params: dict, stats: dict, view: View, train: bool) -> tuple[Array, dict]:
        """The branch's logits (B, K), and all statistics with the new ones of this branch."""
        x = maps_of(view, view.student)[self.start]
        x, transform = run(
            self.transform, params[self.name]["transform"], stats[self.name]["transform"], x, train=train
        )
        stats = {**stats, self.name: {**stats[self.name], "transform": transform}}
        tail = Variables(params[self.student]["student"], stats[self.student]["student"])
        outputs, tail_stats = models.apply(model, tail, x, train, after=self.enter)
        return outputs.logits, {**stats, self.student: {**stats[self.student], "student": tail_stats}}


def sftn_branches(
    *,
    student: str = "resnet8x4",
    weight: float | Schedule = 1.0,
    lambda_ce: float = 1.0,
    lambda_kl: float = 3.0,
    temperature: float = 1.0,
    stages: tuple[str, ...] = (),
    transform: str = "conv3x3",
    share: bool = False,
    detach_target: bool = False,
) -> Distiller:
    """Student branches on a teacher in training: a criterion of the teacher's own phase.

    The network in training is the future teacher. It has the view's seat `student`, and there is no teacher yet.
    Branch i leaves the teacher behind its stage i, passes a transform layer that gives the map the shape of the
    student's stage, and goes on through the student's later stages to a classifier of its own:

        lambda_ce mean_i CE(branch_i, labels) + lambda_kl mean_i T^2 KL(teacher || branch_i)

    beside the recipe's `ce` of the teacher. The branches belong to the method: they are saved with the phase, and a
    phase that uses the teacher does not load them.

    Args:
      student: name of the network whose later stages form the branches; any network, also another one than the
        student that is distilled later.
      weight: of the whole, a number or a schedule of the step.
      lambda_ce: >= 0, weight of the branches' task loss.
      lambda_kl: >= 0, weight of the divergence; with both 0 there are no branches at all.
      temperature: T > 0 of the divergence.
      stages: the branches, each "TEACHER:STUDENT" by index in `Outputs.stages`, every teacher's stage once; () pairs
        the last stages of both from the output side, without the stem and the last stage.
      transform: form of the transform layer, "conv3x3" or "conv1x1" (kd_jax.layers.transform).
      share: True: all branches pass the same student stages and classifier; False: each has its own.
      detach_target: True: the divergence moves only the teacher's features, not its logits.

    Returns:
      A Distiller with the terms ce and kl. Logs, for every branch: top1, and kl in nats (without T^2).

    Raises:
      InputError: an argument outside its range, an unknown network, a stage that one of the two does not have.

    Reference: Park, Cha, Jeong, Kim, Han, "Learning Student-Friendly Teacher Networks for Knowledge
      Distillation", 2021, arXiv 2102.07650.
    Differs: no official code is available. The wiring and the three losses are the paper's; the weights 1, 1
      and 3 and T = 1 are recalled from it, not re-read. Ours, since the paper leaves them open to us: the form of the
      transform, branches that share nothing, the divergence's gradient going into both sides, T^2, and the
      stages of networks that are built differently. The paper has no transformers: a teacher's tokens are read as the
      map of their patches, without the class token. Into a student with tokens a branch brings the cells of the map,
      without its last ReLU, behind a learned class token (kd_jax.layers.transform).
    """
    _check(student, lambda_ce, lambda_kl, temperature, transform)
    if lambda_ce == lambda_kl == 0:
        return identity()
    chosen = _stage_pairs(stages)

    @cache
    def built(num_classes: int, image: tuple[int, ...], shapes: tuple) -> tuple[nn.Module, tuple[Branch, ...]]:
        model = models.create(student, num_classes)
        return model, _branches(model, student, image, shapes, chosen, transform, share)

    def branches(view: View) -> tuple[nn.Module, tuple[Branch, ...]]:
        """The student and its branches on the network in training."""
        shapes = tuple(s.shape[1:] for s in view.student.stages)
        return built(view.student.logits.shape[-1], view.image.shape[1:], shapes)

    def init(key: Array, context: InitContext) -> Vars:
        return _init(key, context.view_shapes, *branches(context.view_shapes))

    def apply(vars: Vars, view: View, key: Array, train: bool):
        model, parts = branches(view)
        stats, logits = dict(vars.stats), {}
        for branch in parts:
            logits[branch.name], stats = branch.logits(model, vars.params, stats, view, train)
        teacher = jax.lax.stop_gradient(view.student.logits) if detach_target else view.student.logits
        ce = {name: losses.cross_entropy(student=z, labels=targets_of(view)) for name, z in logits.items()}
        kl = {name: losses.kd(student=z, teacher=teacher, temperature=temperature) for name, z in logits.items()}
        weighted = (("ce", lambda_ce, ce), ("kl", lambda_kl, kl))
        terms: Terms = {name: scale * sum(each.values()) / len(each) for name, scale, each in weighted if scale}
        logs: Logs = {f"{name}/kl": value / temperature**2 for name, value in kl.items()}
        for name, z in logits.items():
            logs[f"{name}/top1"] = (jnp.argmax(z, axis=-1) == view.labels).astype(jnp.float32)
        return view, terms, logs, stats

    def starts(vars: Vars) -> dict[str, AuxNetwork]:
        return {"": AuxNetwork(student, models.create(student, 2), _largest_part(vars))}

    return weigh(Distiller(init, apply, LABELS, monitors=MONITORS, starts=starts), weight)


MONITORS = (Monitor("branch*/top1", unit="share of examples"), Monitor("branch*/kl", unit="nats"))


def _init(key: Array, view: View, model: nn.Module, branches: tuple[Branch, ...]) -> Vars:
    """Every branch's transform layer and student stages; shared stages once, from the earliest entry on."""
    params, stats = {}, {}
    earliest = min(branches, key=lambda b: b.enter)
    for branch in branches:
        x = jnp.zeros((1, *maps_of(view, view.student)[branch.start].shape[1:]))
        layer = branch.transform.init(fold(key, branch.name), x)
        params[branch.name], stats[branch.name] = {"transform": layer["params"]}, {"transform": layer["batch_stats"]}
        if branch.student == branch.name or branch == earliest:
            x, student_key = jnp.zeros((1, *branch.entry)), fold(key, f"{branch.name}/student")
            tail = models.init(model, student_key, x, branch.enter)
            params.setdefault(branch.student, {})["student"] = tail.params
            stats.setdefault(branch.student, {})["student"] = tail.stats
    return Vars(params, stats, {})


def _branches(
    model: nn.Module, name: str, image: tuple[int, ...], teacher: tuple, chosen: tuple, form: str, share: bool
) -> tuple[Branch, ...]:
    """The branches of a student (its model and name) on a teacher with stages of these shapes."""
    stages = models.shapes(model, image)[1].stages

    def branch(start: int, enter: int) -> Branch:
        stage = stages[enter]
        shape = as_map(stage, image).shape[1:]
        layer = Transform(shape, form, stage.shape[1] - math.prod(shape[:2]) if is_tokens(stage) else 0)
        return Branch(start, enter, stages[enter].shape[1:], layer, "shared" if share else f"branch{start}")

    return tuple(branch(*pair) for pair in _placed(chosen, len(teacher), len(stages), name))


def _largest_part(vars: Vars) -> Variables:
    """The largest part of the student that the branches of this criterion hold: that of the earliest entry."""
    tails = {name: part["student"] for name, part in vars.params.items() if "student" in part}
    name = max(tails, key=lambda name: len(tails[name]))
    return Variables(tails[name], vars.stats[name]["student"])


def _placed(chosen: tuple, teacher: int, student: int, name: str) -> tuple[tuple[int, int], ...]:
    """(teacher's stage, student's stage) of every branch between networks with so many stages, the stem counted."""
    paired = min(teacher, student) - 2  # stages between the stem and the last one that both have
    pairs = chosen or tuple((teacher - 1 - k, student - 1 - k) for k in range(paired, 0, -1))
    if not pairs or not all(0 <= i < teacher and 0 <= j < student for i, j in pairs):
        raise InputError(
            f"sftn_branches: stages {', '.join(f'{i}:{j}' for i, j in pairs) or 'none'}: the teacher has stages "
            f"0 to {teacher - 1}, {name} has 0 to {student - 1}"
        )
    return pairs


def _stage_pairs(stages: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """(teacher's stage, student's stage) of every "TEACHER:STUDENT"."""
    parts = [str(pair).split(":") for pair in stages]
    numbers = all(len(part) == 2 and all(n.strip().isdecimal() for n in part) for part in parts)
    if not numbers or len({int(part[0]) for part in parts}) < len(parts):
        raise InputError(
            f"sftn_branches: stages must be a tuple of TEACHER:STUDENT, with each teacher stage once, got {stages!r}"
        )
    return tuple((int(i), int(j)) for i, j in parts)


def _check(student: str, lambda_ce: float, lambda_kl: float, temperature: float, transform: str) -> None:
    """Refuse arguments of `sftn_branches` that are out of range."""
    finite = float("inf")
    require(
        "sftn_branches",
        lambda_ce=(lambda_ce, 0 <= lambda_ce < finite, "a finite number, at least 0"),
        lambda_kl=(lambda_kl, 0 <= lambda_kl < finite, "a finite number, at least 0"),
        temperature=(temperature, 0 < temperature < finite, "a finite number above 0"),
        transform=(transform, transform in FORMS, " or ".join(FORMS)),
        student=(student, ":" not in student, "a network with a classifier of its own"),
    )
    models.create(student, 2)  # refuses an unknown name
