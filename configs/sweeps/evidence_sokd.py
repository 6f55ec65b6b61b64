"""Few labelled images, SoKD's search: how long it lasts and by which outer loss, in front of FitNet.

python launch/sweep.py --sweep=configs/sweeps/evidence_sokd.py:resnet20,resnet8 --workdir=runs/search \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/standard.safetensors
DAFA alone, without DAM's areas. The published rate of the policy, 3e-4, is for the 15,600 steps of 20 epochs of
CIFAR-100; over the 620 steps of this run it hardly moves a policy, so all searches but one have QUICK (our choice).
"""

from configs.sweeps.evidence import CONFIG, SHORT
from configs.sweeps.evidence_features import SEARCH
from configs.sweeps.sokd import DAFA

__all__ = ["CONFIG", "sweep"]

SEEDS = 3
BASELINE = "FitNet"

QUICK = {f"{DAFA}.rate": 1e-2}


def sweep():
    """FitNet; behind a policy that stays as it starts; searched as published, in proportion; searched at QUICK."""
    host, sokd = "configs/compose.py:fitnet", "configs/compose.py:sokd+fitnet"
    dafa = SHORT | {"config": sokd, "student.refine_order": ("dafa",)}
    yield SHORT | {"name": "FitNet", "config": host}
    yield dafa | {"name": "DAFA + FitNet, no search", f"{DAFA}.search_epochs": 0}
    yield dafa | {"name": "DAFA + FitNet, 2 epochs of search, published rate", **SEARCH}
    yield dafa | {"name": "DAFA + FitNet, 5 epochs of search", f"{DAFA}.search_epochs": 5, **QUICK}
    for outer in ("plain", "refined", "consistency"):
        whole = {f"{DAFA}.search_epochs": 20, f"{DAFA}.outer": outer}
        yield dafa | {"name": f"DAFA + FitNet, 20 epochs of search, outer loss {outer}", **whole, **QUICK}
