"""SDD: a criterion on logits applied to regions of the image too; a combinator around any such criterion."""

from functools import partial

import jax
import jax.numpy as jnp

from kd_jax.losses.regions import region_logits, region_weights
from kd_jax.methods.base import require, require_each, weigh
from kd_jax.methods.nkd import nkd
from kd_jax.methods.stages import require_cam
from kd_jax.methods.terms import comparable, dkd, kd
from kd_jax.typing import Array, Distiller, InitContext, Match, Need, Outputs, Schedule, Vars, View

DIVISORS = (1, 2, 4)  # of the grid of 4 x 4


def sdd(host: Distiller, *, scales: tuple[int, ...] = (1, 2), inconsistent: float = 2.0) -> Distiller:
    """Scale-decoupled distillation: the mean of `host` over the regions of an image, for each example.

        mean over regions r of w_r host(logits of r),   w_r = 1, or `inconsistent`

    The regions are the cells of s x s grids. Their logits are the network's own classifier on the region's mean
    feature (kd_jax.losses.regions). w_r is 1 where the raw teacher is right about the region as about the whole image,
    or wrong as there. The region that is the whole image is the pair in `match`, as refiners have made it; of the
    others both sides are as refiners change both alike (lskd), at the refiners' temperature. Of several teachers the
    first is read.

    Args:
      host: a criterion on logits without variables, whose term has one value for each example.
      scales: each 1, 2 or 4; published are (1, 2) for networks of one kind, (1, 2, 4) for others. (1,) is the host.
      inconsistent: > 0, the weight where the two differ.

    Raises:
      InputError: an argument outside its range; when variables are made, a network without class activation maps, or
        a host about the batch as a whole.

    Reference: Wei, Luo, Luo, "Scaled Decoupled Distillation", 2024, arXiv 2403.13512.
    Differs: as in the published code, regions are averaged where the paper sums them, and compared by whether they are
      right where the paper asks for the same class. There the whole image is the pooled map, here the network's logits:
      the same, unless 4 does not divide the map's size. A loss that is not a number is not replaced by 0.
    """
    require(
        "sdd",
        scales=(scales, bool(scales) and {*scales} <= {*DIVISORS}, "numbers out of 1, 2, 4"),
        inconsistent=(inconsistent, 0 < inconsistent < float("inf"), "a finite number above 0"),
    )

    def init(key: Array, context: InitContext) -> Vars:
        require_cam("sdd", context)
        return host.init(key, context)

    def apply(vars: Vars, view: View, key: Array, train: bool):
        student, teacher = (region_logits(net.cam, scales) for net in (view.student, view.teachers[0]))
        weights = region_weights(teacher, view.teachers[0].logits, view.labels, inconsistent)
        whole = 1 in scales
        regions, batch = len(weights), len(view.labels)
        at = sum(s * s for s in scales[: scales.index(1)]) if whole else 0
        raw, match = (student, teacher), view.match
        student, teacher = comparable(view, student), comparable(view, teacher)
        if whole:
            student, teacher = student.at[at].set(match.student), teacher.at[at].set(match.teacher)
            weights = weights.at[at].set(1.0)
            raw = (raw[0].at[at].set(view.student.logits), raw[1].at[at].set(view.teachers[0].logits))
        flat = view._replace(
            student=_logits_alone(raw[0]),
            teachers=(_logits_alone(raw[1]),),
            match=Match(_flat(student), _flat(teacher), *jax.tree.map(partial(_for_each, regions), match[2:])),
            labels=jnp.tile(view.labels, regions),
            soft_labels=None,
        )
        _, terms, logs, stats = host.apply(vars, flat, key, train)
        require_each("sdd", terms)
        mean = {name: jnp.mean(weights * x.reshape(regions, batch), axis=0) for name, x in terms.items()}
        return view, mean, {}, stats

    return host._replace(init=init, apply=apply, needs=host.needs | {Need.STUDENT_CAM, Need.TEACHER_CAM, Need.LABELS})


def _flat(logits: Array) -> Array:
    return logits.reshape(-1, logits.shape[-1])


def _logits_alone(logits: Array) -> Outputs:
    return Outputs((), None, None, _flat(logits))


def _for_each(regions: int, x):
    """A number for each example (B, 1), such as a temperature, for all their regions; any other as it is."""
    return jnp.tile(x, (regions, 1)) if getattr(x, "ndim", 0) == 2 else x


def sdd_kd(
    *, weight: float | Schedule = 1.0, temperature: float | None = None, scales: tuple[int, ...] = (1, 2),
    inconsistent: float = 2.0,
) -> Distiller:  # fmt: skip
    """`sdd(kd(...))`: KD on the image and its regions.

    Args and errors: those of `kd` and `sdd`.

    Reference: Wei, Luo, Luo, "Scaled Decoupled Distillation", 2024, arXiv 2403.13512.
    """
    return weigh(sdd(kd(temperature=temperature), scales=scales, inconsistent=inconsistent), weight)


def sdd_dkd(
    *, weight: float | Schedule = 1.0, alpha: float = 1.0, beta: float = 8.0, temperature: float | None = None,
    scales: tuple[int, ...] = (1, 2), inconsistent: float = 2.0,
) -> Distiller:  # fmt: skip
    """`sdd(dkd(...))`: DKD on the image and its regions.

    Args and errors: those of `dkd` and `sdd`.

    Reference: Wei, Luo, Luo, "Scaled Decoupled Distillation", 2024, arXiv 2403.13512.
    """
    host = dkd(alpha=alpha, beta=beta, temperature=temperature)
    return weigh(sdd(host, scales=scales, inconsistent=inconsistent), weight)


def sdd_nkd(
    *, weight: float | Schedule = 1.0, gamma: float = 1.5, temperature: float | None = 1.0,
    scales: tuple[int, ...] = (1, 2), inconsistent: float = 2.0,
) -> Distiller:  # fmt: skip
    """`sdd(nkd(...))`: NKD on the image and its regions.

    Args and errors: those of `nkd` and `sdd`.

    Reference: Wei, Luo, Luo, "Scaled Decoupled Distillation", 2024, arXiv 2403.13512.
    Differs: in the published code of SDD the classes beside the label are all classes, by a slip; here they are not.
    """
    host = nkd(gamma=gamma, temperature=temperature)
    return weigh(sdd(host, scales=scales, inconsistent=inconsistent), weight)
