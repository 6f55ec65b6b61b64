"""Distillation methods as values, and the combinators that put them together."""

from kd_jax.methods.ab import ab
from kd_jax.methods.ab_kd import ab_kd
from kd_jax.methods.base import chain, everywhere, identity, look_again, ramp, taught_by, weigh
from kd_jax.methods.cat_kd import cat_kd
from kd_jax.methods.crd import crd
from kd_jax.methods.crld import crld
from kd_jax.methods.dafa import dafa
from kd_jax.methods.dam import dam
from kd_jax.methods.deepkd import deepkd
from kd_jax.methods.deit import deit
from kd_jax.methods.dml import dml
from kd_jax.methods.ea import ea, ea_dkd, ea_kd
from kd_jax.methods.embed import embed
from kd_jax.methods.fcfd import fcfd
from kd_jax.methods.features import at, kdsvd, nst
from kd_jax.methods.fitnet import fitnet
from kd_jax.methods.fsp import fsp
from kd_jax.methods.ft import ft, paraphraser
from kd_jax.methods.match import ctkd, lskd
from kd_jax.methods.mlld import mlld
from kd_jax.methods.nkd import nkd
from kd_jax.methods.normkd import normkd
from kd_jax.methods.ofa import ofa
from kd_jax.methods.ofd import ofd
from kd_jax.methods.relations import cc, pkt, rkd, sp
from kd_jax.methods.reviewkd import reviewkd
from kd_jax.methods.rld import rld
from kd_jax.methods.sdd import sdd, sdd_dkd, sdd_kd, sdd_nkd
from kd_jax.methods.sftn import sftn_branches
from kd_jax.methods.simkd import simkd
from kd_jax.methods.skd import skd
from kd_jax.methods.terms import ce, comparable, dist, dkd, kd
from kd_jax.methods.ttm import ttm, wttm
from kd_jax.methods.vid import vid
from kd_jax.methods.wkd_f import wkd_f
from kd_jax.methods.wkd_l import wkd_l

__all__ = [
    "CRITERIA", "REFINERS", "ab", "ab_kd", "at", "cat_kd", "cc", "ce", "chain", "comparable", "crd", "crld", "ctkd",
    "dafa", "dam", "deepkd", "deit", "dist", "dkd", "dml", "ea", "ea_dkd", "ea_kd", "embed", "everywhere", "fcfd",
    "fitnet", "fsp", "ft", "identity", "kd", "kdsvd", "look_again", "lskd", "mlld", "nkd", "normkd", "nst", "ofa",
    "ofd", "paraphraser", "pkt", "ramp", "reviewkd", "rkd", "rld", "sdd", "sdd_dkd", "sdd_kd", "sdd_nkd",
    "sftn_branches", "simkd", "skd", "sp", "taught_by", "ttm", "vid", "weigh", "wkd_f", "wkd_l", "wttm",
]  # fmt: skip

# refiners change the view and stand first, in the order that a recipe names; where it names none, in this one
REFINERS = {"skd": skd, "lskd": lskd, "normkd": normkd, "ctkd": ctkd, "dam": dam, "dafa": dafa}
# criteria yield terms
CRITERIA = {
    "ce": ce, "kd": kd, "dkd": dkd, "dist": dist, "mlld": mlld,
    "nkd": nkd, "rld": rld, "ttm": ttm, "wttm": wttm, "ab_kd": ab_kd,
    "ea_kd": ea_kd, "ea_dkd": ea_dkd, "sdd_kd": sdd_kd, "sdd_dkd": sdd_dkd, "sdd_nkd": sdd_nkd,
    "crld": crld, "ofa": ofa, "deepkd": deepkd, "deit": deit, "wkd_l": wkd_l,
    "fitnet": fitnet, "at": at, "nst": nst, "kdsvd": kdsvd, "cat_kd": cat_kd, "wkd_f": wkd_f, "embed": embed,
    "fcfd": fcfd, "vid": vid, "ofd": ofd, "reviewkd": reviewkd,
    "sp": sp, "cc": cc, "rkd": rkd, "pkt": pkt, "crd": crd,
    "ab": ab, "fsp": fsp, "ft": ft, "paraphraser": paraphraser,
    "simkd": simkd, "dml": dml,
    "sftn_branches": sftn_branches,
}  # fmt: skip
