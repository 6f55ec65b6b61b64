"""A validated recipe becomes plans: every phase is built, checked and traced before the first one trains."""

from kd_jax.plan.build import build
from kd_jax.plan.phase_plan import PhasePlan

__all__ = ["PhasePlan", "build"]
