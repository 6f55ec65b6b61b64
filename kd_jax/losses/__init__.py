"""Losses: arrays in, (B,) or () out, keyword-only, unweighted as the published code has them."""

from kd_jax.losses.features import areas, at, cat_kd, fitnet, nst
from kd_jax.losses.hints import hcl, ofd, vid
from kd_jax.losses.logits import cross_entropy, dist, dkd, kd, standardize
from kd_jax.losses.relations import cc, pkt, rkd, sp
from kd_jax.losses.svd import kdsvd

__all__ = [
    "areas", "at", "cat_kd", "cc", "cross_entropy", "dist", "dkd", "fitnet", "hcl", "kd", "kdsvd", "nst", "ofd", "pkt",
    "rkd", "sp", "standardize", "vid",
]  # fmt: skip
