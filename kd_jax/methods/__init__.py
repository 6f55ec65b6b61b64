"""Distillation methods as values, and the combinators that put them together."""

from kd_jax.methods.base import chain, identity, ramp, weigh
from kd_jax.methods.cat_kd import cat_kd
from kd_jax.methods.features import at, fitnet, kdsvd, nst
from kd_jax.methods.match import ctkd, lskd
from kd_jax.methods.ofd import ofd
from kd_jax.methods.relations import cc, pkt, rkd, sp
from kd_jax.methods.reviewkd import reviewkd
from kd_jax.methods.sftn import sftn_branches
from kd_jax.methods.skd import skd
from kd_jax.methods.sokd import dafa, dam
from kd_jax.methods.terms import ce, dist, dkd, kd
from kd_jax.methods.vid import vid

__all__ = [
    "CRITERIA", "REFINERS",
    "at", "cat_kd", "cc", "ce", "chain", "ctkd", "dafa", "dam", "dist", "dkd", "fitnet", "identity", "kd", "kdsvd",
    "lskd", "nst", "ofd", "pkt", "ramp", "reviewkd", "rkd", "sftn_branches", "skd", "sp", "vid", "weigh",
]  # fmt: skip

# refiners change the view and stand first, in the order that a recipe names; where it names none, in this one
REFINERS = {"skd": skd, "lskd": lskd, "ctkd": ctkd, "dam": dam, "dafa": dafa}
# criteria yield terms
CRITERIA = {
    "ce": ce, "kd": kd, "dkd": dkd, "dist": dist,
    "fitnet": fitnet, "at": at, "nst": nst, "kdsvd": kdsvd, "cat_kd": cat_kd,
    "vid": vid, "ofd": ofd, "reviewkd": reviewkd,
    "sp": sp, "cc": cc, "rkd": rkd, "pkt": pkt,
    "sftn_branches": sftn_branches,
}  # fmt: skip
