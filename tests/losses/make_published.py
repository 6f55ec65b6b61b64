"""Write golden/published.npz: the published PyTorch losses on the cases of cases.py, run in float64.

    git clone https://github.com/megvii-research/mdistiller
    git clone https://github.com/HobbitLong/RepDistiller
    git clone https://github.com/hunto/DIST_KD
    git clone https://github.com/GzyAftermath/CAT-KD
    git clone https://github.com/sunshangquan/logit-standardization-KD
    python tests/losses/make_published.py mdistiller RepDistiller DIST_KD CAT-KD logit-standardization-KD

Needs torch and scipy, not kd_jax. For every case: the value, and its derivative by the student's tensors along a
direction. The tests make the same tensors from the same functions, without torch.
"""

import importlib
import sys
import types
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cases import CASES, FILE, Inputs, make, margin, norms, variance

PLACES = {  # in the order of the arguments
    "mdistiller": "mdistiller/distillers",
    "repdistiller": "distiller_zoo",
    "dist": "segmentation/losses",
    "cat": "mdistiller/distillers",
    "lskd": "mdistiller/distillers",
}


def load(place: str, file: str):
    """One file of a checkout: its package is opened without running the package's own __init__, which wants more
    than torch."""
    return importlib.import_module(f"published_{place}.{file}")


def open_packages(folders: list[str]) -> None:
    for (place, inside), folder in zip(PLACES.items(), folders, strict=True):
        package = types.ModuleType(f"published_{place}")
        package.__path__ = [str(Path(folder) / inside)]
        sys.modules[package.__name__] = package


def margins() -> np.ndarray:
    """(60,), of `norms`; the published code rounds them to float32."""
    norm = torch.nn.BatchNorm1d(60).double()
    norm.weight.data, norm.bias.data = map(torch.from_numpy, norms())
    method = types.SimpleNamespace(_align_list=lambda *lists: lists)
    load("mdistiller", "OFD").OFD.init_ofd_modules(method, [60], [60], [norm])
    return method.margins[0].flatten().numpy()


def losses() -> dict:
    """loss -> function of (students, teachers, inputs, options), tensors as PyTorch has them, to a ()."""
    of = {name: load("mdistiller", name) for name in "KD DKD AT SP VID RKD PKT NST KDSVD OFD ReviewKD".split()}
    correlation, dist = load("repdistiller", "CC").Correlation(), load("dist", "dist_kd").DIST
    cat, lskd = load("cat", "CAT_KD"), load("lskd", "KD")

    def vid(s, t, inputs, o):
        scale = np.log(np.expm1(variance(inputs.channels[0]) - 1e-5))
        return of["VID"].vid_loss(torch.nn.Identity(), torch.from_numpy(scale), s[0], t[0])

    def kdsvd(s, t, inputs, o):
        """The value depends on the signs of the teacher's vectors, which LAPACK leaves open: entries sum to >= 0."""

        def signed(maps, n):
            u, values, v = decompose(maps, n)
            sign = torch.where(v.sum(1, keepdim=True) < 0, -1.0, 1.0)
            return u * sign, values, v * sign

        decompose, of["KDSVD"].svd = of["KDSVD"].svd, signed
        try:
            return of["KDSVD"].kdsvd_loss(s, t, **o)
        finally:
            of["KDSVD"].svd = decompose

    def ofd(s, t, inputs, o):
        """The method's own sum over stages; its connectors do nothing."""
        margins = [torch.from_numpy(margin(c))[None, :, None, None] for c in inputs.channels]
        connectors = types.SimpleNamespace(connectors=[torch.nn.Identity()] * len(s))
        whole = of["OFD"].OFD
        align = partial(whole._align_list, None)
        return whole.ofd_loss(types.SimpleNamespace(connectors=connectors, margins=margins, _align_list=align), s, t)

    return {
        "kd": lambda s, t, inputs, o: of["KD"].kd_loss(s[0], t[0], **o),
        "dkd": lambda s, t, inputs, o: of["DKD"].dkd_loss(s[0], t[0], torch.from_numpy(inputs.labels), **o),
        "dist": lambda s, t, inputs, o: dist(**o)(s[0], t[0]),
        "standardize": lambda s, t, inputs, o: (lskd.normalize(s[0]) * t[0]).sum(),
        "lskd": lambda s, t, inputs, o: lskd.kd_loss(s[0], t[0], logit_stand=True, **o),
        "fitnet": lambda s, t, inputs, o: torch.nn.functional.mse_loss(s[0], t[0]),
        "at": lambda s, t, inputs, o: of["AT"].at_loss(s, t, **o),
        "sp": lambda s, t, inputs, o: of["SP"].sp_loss(s, t).sum(),
        "vid": vid,
        "rkd": lambda s, t, inputs, o: of["RKD"].rkd_loss(s[0], t[0], **o),
        "pkt": lambda s, t, inputs, o: of["PKT"].pkt_loss(s[0], t[0]),
        "cc": lambda s, t, inputs, o: correlation(s[0], t[0]),
        "nst": lambda s, t, inputs, o: of["NST"].nst_loss(s, t),
        "kdsvd": kdsvd,
        "ofd": ofd,
        "hcl": lambda s, t, inputs, o: of["ReviewKD"].hcl_loss(s, t),
        "cat_kd": lambda s, t, inputs, o: cat.CAT_loss(s[0], t[0], o["resolution"], o["normalize"]),
    }


def channels_first(maps: list[np.ndarray]) -> list[torch.Tensor]:
    tensors = map(torch.from_numpy, maps)
    return [x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x for x in tensors]


def measure(loss, inputs: Inputs, options: dict) -> np.ndarray:
    """(2,): the value and the derivative along `inputs.along`."""
    students = [x.requires_grad_() for x in channels_first(inputs.students)]
    value = loss(students, channels_first(inputs.teachers), inputs, options)
    grads = torch.autograd.grad(value, students)
    slope = sum((g * a).sum() for g, a in zip(grads, channels_first(inputs.along), strict=True))
    return np.array([value.item(), slope.item()])


def main(folders: list[str]) -> None:
    warnings.filterwarnings("ignore", "size_average")
    torch.Tensor.float = torch.Tensor.double  # some of the losses cast what they are given to float32
    open_packages(folders)
    known = losses()
    golden = {name: measure(known[name.split("/")[0]], make(name), case.options) for name, case in CASES.items()}
    np.savez_compressed(FILE, margins=margins(), **golden)
    print(f"{FILE}: {len(golden)} cases, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
