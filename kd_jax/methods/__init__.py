"""Distillation methods as values, and the combinators that put them together."""

from kd_jax.methods.base import chain, identity, ramp, weigh
from kd_jax.methods.features import at, fitnet
from kd_jax.methods.sftn import sftn_branches
from kd_jax.methods.skd import skd
from kd_jax.methods.sokd import dafa, dam
from kd_jax.methods.terms import ce, dkd, kd

__all__ = [
    "CRITERIA", "REFINERS",
    "at", "ce", "chain", "dafa", "dam", "dkd", "fitnet", "identity", "kd", "ramp", "sftn_branches", "skd", "weigh",
]  # fmt: skip

# refiners change the view and stand first, in the order a recipe names; criteria yield terms
REFINERS = {"skd": skd, "dafa": dafa, "dam": dam}
CRITERIA = {"ce": ce, "kd": kd, "dkd": dkd, "fitnet": fitnet, "at": at, "sftn_branches": sftn_branches}
