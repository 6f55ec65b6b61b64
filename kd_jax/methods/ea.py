"""EA-KD: examples weigh as much as their distributions leave open; a combinator around any term."""

import jax

from kd_jax import losses
from kd_jax.losses.common import mean_logits
from kd_jax.losses.entropy import BOUNDS
from kd_jax.methods.base import require, require_each, weigh
from kd_jax.methods.terms import dkd, kd
from kd_jax.typing import Array, Distiller, Need, Schedule, Vars, View


def ea(host: Distiller, *, temperature: float = 3.0, bound: str = "log") -> Distiller:
    """Multiply every term of `host`, example by example, by losses.entropy_weight of the raw logits.

    The weight is detached: the student cannot lower its loss by being surer, nor can a refiner in front (skd).

    Args:
      host: a Distiller whose terms have one value for each example.
      temperature: > 0, of the entropies.
      bound: "log" or "classes", see kd_jax.losses.entropy.

    Raises:
      InputError: an argument outside its range; when variables are made, a term about the batch as a whole.

    Reference: Su et al., "EA-KD: Entropy-based Adaptive Knowledge Distillation", 2025, arXiv 2311.13621.
    Differs: the bound of the entropies is the paper's; the published code for CIFAR-100 has bound="classes".
    """
    finite = float("inf")
    require(
        "ea",
        temperature=(temperature, 0 < temperature < finite, "a finite number above 0"),
        bound=(bound, bound in BOUNDS, "log or classes"),
    )

    def apply(vars: Vars, view: View, key: Array, train: bool):
        pair = {"student": view.student.logits, "teacher": mean_logits(view.teachers)}
        weight = jax.lax.stop_gradient(losses.entropy_weight(**pair, temperature=temperature, bound=bound))
        view, terms, logs, stats = host.apply(vars, view, key, train)
        require_each("ea", terms)
        return view, {name: weight * value for name, value in terms.items()}, logs, stats

    return host._replace(apply=apply, needs=host.needs | {Need.MATCH})


def ea_kd(
    *,
    weight: float | Schedule = 1.0,
    temperature: float | None = None,
    entropy_temperature: float = 3.0,
    bound: str = "log",
) -> Distiller:
    """KD with EA-KD's weights: `ea(kd(...))`.

    Args:
      weight: a number, or a schedule of the step; 0.9 beside 0.1 of `ce` as published.
      temperature: as `kd` has it.
      entropy_temperature: > 0, of the entropies; 3 as published, 2 on ImageNet.
      bound: "log", or "classes" as in the published code.

    Raises:
      InputError: an argument outside its range.

    Reference: Su et al., "EA-KD: Entropy-based Adaptive Knowledge Distillation", 2025, arXiv 2311.13621.
    Differs: the bound of the entropies is the paper's; the published code for CIFAR-100 has bound="classes".
    """
    return weigh(ea(kd(temperature=temperature), temperature=entropy_temperature, bound=bound), weight)


def ea_dkd(
    *,
    weight: float | Schedule = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float | None = None,
    entropy_temperature: float = 3.0,
    bound: str = "log",
) -> Distiller:
    """DKD with EA-KD's weights: `ea(dkd(...))`.

    Args:
      weight: a number, or a schedule of the step.
      alpha, beta, temperature: as `dkd` has them.
      entropy_temperature: > 0, of the entropies. The published code has 3 also on ImageNet, where its setting says 2.
      bound: "log", or "classes" as in the published code.

    Raises:
      InputError: an argument outside its range; fewer than three classes.

    Reference: Su et al., "EA-KD: Entropy-based Adaptive Knowledge Distillation", 2025, arXiv 2311.13621.
    Differs: the bound of the entropies is the paper's; the published code for CIFAR-100 has bound="classes".
    """
    host = dkd(alpha=alpha, beta=beta, temperature=temperature)
    return weigh(ea(host, temperature=entropy_temperature, bound=bound), weight)
