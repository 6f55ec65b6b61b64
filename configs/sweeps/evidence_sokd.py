"""Few labelled images, SoKD's augmentation and its search: how long, by which outer loss, in front of FitNet.

python launch/sweep.py --sweep=configs/sweeps/evidence_sokd.py:resnet20,resnet8 --workdir=runs/search \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/standard.safetensors
DAFA alone, without DAM's areas. FitNet has one regressor and one weight in all rows, or a host and its augmentation
would differ in both: SoKD's regressor, and the weight that FitNet has alone; the last two rows have SoKD's. The
published rate of the policy, 3e-4, is for the 15,600 steps of 20 epochs of CIFAR-100; over the 620 steps of this run it
hardly moves a policy, so searches have QUICK (our choice).
"""

from configs.sweeps.evidence import CONFIG, SHORT
from configs.sweeps.sokd import DAFA

__all__ = ["CONFIG", "sweep"]

SEEDS = 3
BASELINE = "FitNet"

QUICK = {f"{DAFA}.rate": 1e-2}


def sweep():
    """FitNet; behind a policy that stays as it starts; behind searched ones; the first two at SoKD's weight."""
    host = SHORT | {"config": "configs/compose.py:fitnet", **_fitnet(100.0)}
    dafa = host | {"config": "configs/compose.py:sokd+fitnet", "student.refine_order": ("dafa",)}
    unsearched = dafa | {f"{DAFA}.search_epochs": 0}
    yield host | {"name": "FitNet"}
    yield unsearched | {"name": "DAFA + FitNet, no search"}
    yield dafa | {"name": "DAFA + FitNet, 5 epochs of search", f"{DAFA}.search_epochs": 5, **QUICK}
    for outer in ("plain", "refined", "consistency"):
        whole = {f"{DAFA}.search_epochs": 20, f"{DAFA}.outer": outer}
        yield dafa | {"name": f"DAFA + FitNet, 20 epochs of search, outer loss {outer}", **whole, **QUICK}
    yield host | {"name": "FitNet, weight 1000", **_fitnet(1000.0)}
    yield unsearched | {"name": "DAFA + FitNet, weight 1000, no search", **_fitnet(1000.0)}


def _fitnet(weight: float) -> dict:
    fitnet = "student.terms.fitnet"
    return {f"{fitnet}.weight": weight, f"{fitnet}.depth": 3}
