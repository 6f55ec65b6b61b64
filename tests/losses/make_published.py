"""Write golden/published.npz: the published PyTorch losses on the cases of cases.py, run in float64.

    git clone https://github.com/megvii-research/mdistiller
    git clone https://github.com/HobbitLong/RepDistiller
    git clone https://github.com/hunto/DIST_KD
    git clone https://github.com/GzyAftermath/CAT-KD
    git clone https://github.com/sunshangquan/logit-standardization-KD
    git clone https://github.com/Jin-Ying/Multi-Level-Logit-Distillation
    python tests/losses/make_published.py mdistiller RepDistiller DIST_KD CAT-KD logit-standardization-KD \
        Multi-Level-Logit-Distillation

Needs torch and scipy, not kd_jax. For every case: the value, and its derivative by the student's tensors along a
direction. The tests make the same tensors from the same functions, without torch. Where two of the repositories have
a loss, the script checks that they agree.
"""

import importlib
import sys
import types
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cases import CASES, FILE, MOMENTUM, STEPS, Inputs, contrast, heads, make, margin, norms, variance

PLACES = {  # the number of the argument, and the folder in it
    "mdistiller": (0, "mdistiller/distillers"),
    "repdistiller": (1, "distiller_zoo"),
    "crd": (1, "crd"),
    "dist": (2, "segmentation/losses"),
    "cat": (3, "mdistiller/distillers"),
    "lskd": (4, "mdistiller/distillers"),
    "mlld": (5, "mdistiller/distillers"),
}


def load(place: str, file: str):
    """One file of a checkout: its package is opened without running the package's own __init__, which wants more
    than torch."""
    return importlib.import_module(f"published_{place}.{file}")


def open_packages(folders: list[str]) -> None:
    for place, (i, inside) in PLACES.items():
        package = types.ModuleType(f"published_{place}")
        package.__path__ = [str(Path(folders[i]) / inside)]
        sys.modules[package.__name__] = package
    turtle = sys.modules["turtle"] = types.ModuleType("turtle")  # LSKD's MLKD.py imports it and makes no use of it
    turtle.st = None


def margins() -> np.ndarray:
    """(60,), of `norms`; the published code rounds them to float32."""
    norm = torch.nn.BatchNorm1d(60).double()
    norm.weight.data, norm.bias.data = map(torch.from_numpy, norms())
    method = types.SimpleNamespace(_align_list=lambda *lists: lists)
    load("mdistiller", "OFD").OFD.init_ofd_modules(method, [60], [60], [norm])
    return method.margins[0].flatten().numpy()


def contrastive(features: int, teacher: int, width: int, o: dict) -> list:
    """CRD of RepDistiller and of mdistiller, in float64: for each the loss and the module with heads and memory."""
    for memory in (load("crd", "memory"), load("mdistiller", "CRD")):
        memory.AliasMethod.cuda = lambda self: None  # it draws the negatives that are not given
    torch.set_default_dtype(torch.float64)  # the memory keeps T and the constants in the default type
    try:
        names = ("s_dim", "t_dim", "feat_dim", "n_data", "nce_k", "nce_t", "nce_m")
        values = (features, teacher, width, o["rows"], o["negatives"], o["temperature"], o["momentum"])
        first = load("crd", "criterion").CRDLoss(types.SimpleNamespace(**dict(zip(names, values, strict=True))))
        second, whole = types.SimpleNamespace(), load("mdistiller", "CRD").CRD
        whole.init_crd_modules(second, *values[:5], o["momentum"], o["temperature"])
        return [(first, first), (partial(whole.crd_loss, second), second)]
    finally:
        torch.set_default_dtype(torch.float32)


def remember(module, given, embed) -> None:
    """Puts in the banks, and into each seat's head what `embed` makes of its name."""
    for seat, i in (("student", 0), ("teacher", 1)):
        getattr(module.contrast, f"memory_v{i + 1}").copy_(torch.from_numpy(given.banks[i]))
        getattr(module, f"embed_{seat[0]}").linear = embed(seat)


def called(loss, given, i: int, student, teacher):
    """Call i of the loss."""
    rows = np.concatenate([given.index[i][:, None], given.negatives[i]], 1)
    return loss(student, teacher, torch.from_numpy(given.index[i]), torch.from_numpy(rows)).sum()


def crd_steps() -> dict[str, np.ndarray]:
    """Two calls of CRD, its heads included: values, then constants and banks, the student's first."""

    def head(seat):
        kernel, bias = map(torch.from_numpy, heads()[seat])
        return lambda x: x @ kernel + bias

    given, each = contrast(**STEPS), []
    features, width = STEPS["given"], STEPS["width"]
    for loss, module in contrastive(features, features, width, STEPS | {"temperature": 0.07, "momentum": MOMENTUM}):
        del module.embed_s.linear, module.embed_t.linear
        remember(module, given, head)
        pairs = [torch.from_numpy(given.before), torch.from_numpy(given.before[::-1].copy())]
        values = [called(loss, given, i, *pair).item() for i, pair in enumerate(pairs)]
        memory = module.contrast
        banks = np.stack([memory.memory_v1.numpy(), memory.memory_v2.numpy()])
        each.append([np.array(values), memory.params[2:4].detach().numpy(), banks])
    for a, b in zip(*each, strict=True):
        np.testing.assert_array_equal(a, b)
    return dict(zip(("crd_values", "crd_scales", "crd_banks"), each[0], strict=True))


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

    def crd(s, t, inputs, o):
        batch, width = s[0].shape
        given, values = contrast(batch, width, o["rows"], o["negatives"]), []
        for loss, module in contrastive(width, width, width, o):
            remember(module, given, lambda seat: torch.nn.Identity())
            for i in range(o["calls"] - 1):
                called(loss, given, i, *map(torch.from_numpy, given.before))
            values.append(called(loss, given, o["calls"] - 1, s[0], t[0]))
        assert values[0] == values[1]
        return values[0]

    def mlld(s, t, inputs, o):
        """What the distillers make of two networks whose images are 0 (weak) and 1 (strong), without their tasks."""
        networks = [lambda i, z=z: (z[i], None) for z in (s, t)]
        options = {"temperature": o["temperature"], "ce_loss_weight": 0.0, "kd_loss_weight": 1.0}
        method = types.SimpleNamespace(student=networks[0], teacher=networks[1], **options, logit_stand=o["lskd"])
        codes = [load("lskd", "MLKD").MLKD] + [load("mlld", "KD_ours").KD_ours] * (not o["lskd"])
        terms = [code.forward_train(method, 0, 1, torch.from_numpy(inputs.labels))[1] for code in codes]
        values = [sum(parts.values()) for parts in terms]
        assert all(value == values[0] for value in values)
        return values[0]

    boundaries, flows, factors = (load("repdistiller", name) for name in ("AB", "FSP", "FT"))
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
        "crd": crd,
        "mlld": mlld,
        "ab": lambda s, t, inputs, o: sum(boundaries.ABLoss(len(s), **o)(s, t)),
        "fsp": lambda s, t, inputs, o: sum(flows.FSP([x.shape for x in s], [x.shape for x in t])(s, t)),
        "ft": lambda s, t, inputs, o: factors.FactorTransfer(**o)(s[0], t[0]),
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
    losses_of = losses()
    golden = {name: measure(losses_of[name.split("/")[0]], make(name), case.options) for name, case in CASES.items()}
    np.savez_compressed(FILE, margins=margins(), **crd_steps(), **golden)
    print(f"{FILE}: {len(golden)} cases, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
