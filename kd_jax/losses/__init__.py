"""Losses: arrays in, (B,) or () out, keyword-only, unweighted as the published code has them."""

from kd_jax.losses.logits import cross_entropy, dkd, kd

__all__ = ["cross_entropy", "dkd", "kd"]
