"""Methods combined: their names joined by +, then the pair, as in compose.py:skd+reviewkd,resnet32x4,resnet8x4.

python launch/train.py --config=configs/compose.py:sokd+reviewkd,resnet32x4,resnet8x4 --workdir=runs/compose
Every method keeps the weights it is published with, so kd+at is 1 CE + 0.9 KD + 1000 AT (RepDistiller's KD beside
another method has weight 1: --config.student.terms.kd.weight=1); kd_jax.recipes.distillation says how parts that share
a term agree. Refiners stand in the order skd, lskd, normkd, ctkd, dam, dafa; of several temperatures the last counts.
"""

from configs import (
    ab,
    ab_kd,
    at,
    cat_kd,
    cc,
    crd,
    crld,
    ctkd,
    deepkd,
    dist,
    dkd,
    dml,
    dot,
    ea_dkd,
    ea_kd,
    embed,
    fcfd,
    fitnet,
    fsp,
    ft,
    kd,
    kdsvd,
    lskd,
    mlld,
    nkd,
    normkd,
    nst,
    ofa,
    ofd,
    pkt,
    reviewkd,
    rkd,
    rld,
    sdd_dkd,
    sdd_kd,
    sdd_nkd,
    sftn,
    simkd,
    skd,
    skd_annealed,
    sokd_fitnet,
    sp,
    ttm,
    vid,
    wkd_f,
    wkd_l,
    wttm,
)  # fmt: skip
from kd_jax import recipes

ARGUMENT = "METHODS,TEACHER,STUDENT"  # for launch/list.py
PARTS = {
    "kd": kd.part, "dkd": dkd.part, "dist": dist.part,
    "nkd": nkd.part, "rld": rld.part, "ttm": ttm.part, "wttm": wttm.part, "ab_kd": ab_kd.part,
    "ea_kd": ea_kd.part, "ea_dkd": ea_dkd.part,
    "sdd_kd": sdd_kd.part, "sdd_dkd": sdd_dkd.part, "sdd_nkd": sdd_nkd.part, "crld": crld.part,
    "ofa": ofa.part, "deepkd": deepkd.part, "wkd_l": wkd_l.part,
    "fitnet": fitnet.part, "at": at.part, "nst": nst.part, "kdsvd": kdsvd.part, "cat_kd": cat_kd.part,
    "wkd_f": wkd_f.part, "embed": embed.part, "fcfd": fcfd.part, "vid": vid.part, "ofd": ofd.part,
    "reviewkd": reviewkd.part,
    "sp": sp.part, "cc": cc.part, "rkd": rkd.part, "pkt": pkt.part, "crd": crd.part, "mlld": mlld.part,
    "ab": ab.part, "fsp": fsp.part, "ft": ft.part, "simkd": simkd.part, "dml": dml.part, "dot": dot.part,
    "skd": skd.part, "skd_annealed": skd_annealed.part, "lskd": lskd.part, "normkd": normkd.part, "ctkd": ctkd.part,
    "sokd": sokd_fitnet.part, "sftn": sftn.part,
}  # fmt: skip


def get_config(arg: str = "skd"):
    """Teacher, then student by all methods named."""
    spelled, _, rest = (arg or "skd").partition(",")
    names = spelled.split("+")
    for name in names:
        if name not in PARTS:
            raise recipes.InputError(
                f"config argument {arg!r}: unknown method {name!r}; {recipes.suggest(name, PARTS)}"
            )
        if names.count(name) > 1:
            raise recipes.InputError(f"config argument {arg!r}: {name} twice")
    pair = recipes.argument(rest)
    return recipes.distillation(spelled, pair, *(PARTS[name](pair) for name in names))
