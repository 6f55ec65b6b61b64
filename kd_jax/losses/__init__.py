"""Losses: arrays in, (B,) or () out, keyword-only, unweighted as the published code has them.

An argument that a user can set wrong (a temperature, a power, too few classes or examples) raises InputError. Arrays
whose shapes do not fit together raise ValueError: there the code that calls the loss is wrong.
"""

from kd_jax.losses.alpha_beta import alpha_beta
from kd_jax.losses.contrastive import crd, crd_scales
from kd_jax.losses.cross_view import crld
from kd_jax.losses.decoupled import decoupled, left_for_others
from kd_jax.losses.embedding import embed
from kd_jax.losses.entropy import entropy_weight
from kd_jax.losses.features import areas, at, cat_kd, fitnet, nst
from kd_jax.losses.hints import hcl, ofd, vid
from kd_jax.losses.logits import cross_entropy, deviation, dist, dkd, kd, standardize
from kd_jax.losses.multi_level import mlld
from kd_jax.losses.normalized import nkd
from kd_jax.losses.one_for_all import ofa
from kd_jax.losses.pretraining import ab, fsp, ft
from kd_jax.losses.refined import rld
from kd_jax.losses.relations import cc, pkt, rkd, sp
from kd_jax.losses.svd import kdsvd
from kd_jax.losses.transformed import power_sum, ttm
from kd_jax.losses.transport import class_cka, class_costs, cosine_distances, transport, wkd_l
from kd_jax.losses.wasserstein import wkd_f

__all__ = [
    "ab", "alpha_beta", "areas", "at", "cat_kd", "cc", "class_cka", "class_costs", "cosine_distances", "crd",
    "crd_scales", "crld", "cross_entropy", "decoupled", "deviation", "dist", "dkd", "embed", "entropy_weight",
    "fitnet", "fsp", "ft", "hcl", "kd", "kdsvd", "left_for_others", "mlld", "nkd", "nst", "ofa", "ofd", "pkt",
    "power_sum", "rkd", "rld", "sp", "standardize", "transport", "ttm", "vid", "wkd_f", "wkd_l",
]  # fmt: skip
