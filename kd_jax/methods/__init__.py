"""Distillation methods as values, and the combinators that put them together."""

from kd_jax.methods.base import chain, identity, ramp, weigh
from kd_jax.methods.sftn import sftn_branches
from kd_jax.methods.skd import skd
from kd_jax.methods.terms import ce, dkd, kd

__all__ = ["CRITERIA", "REFINERS", "ce", "chain", "dkd", "identity", "kd", "ramp", "sftn_branches", "skd", "weigh"]

# refiners change the view and stand first, in the order a recipe names; criteria yield terms
REFINERS = {"skd": skd}
CRITERIA = {"ce": ce, "kd": kd, "dkd": dkd, "sftn_branches": sftn_branches}
