"""Losses: arrays in, (B,) or () out, keyword-only, unweighted as the published code has them."""

from kd_jax.losses.features import areas, at, fitnet
from kd_jax.losses.logits import cross_entropy, dkd, kd

__all__ = ["areas", "at", "cross_entropy", "dkd", "fitnet", "kd"]
