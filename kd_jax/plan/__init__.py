"""A validated recipe becomes plans: every phase built and checked before the first one trains."""

from kd_jax.plan.build import PhasePlan, plan

__all__ = ["PhasePlan", "plan"]
