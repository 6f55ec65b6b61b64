"""Few labelled images, SoKD's augmentation and its search: how long, by which outer loss, in front of FitNet.

python launch/sweep.py --sweep=configs/sweeps/evidence_sokd.py:resnet20,resnet8 --workdir=runs/search \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/standard.safetensors
DAFA alone, without DAM's areas. FitNet has one regressor and one weight in all rows, or a host and its augmentation
would differ in both: the regressor that it has behind SoKD, and the weight that it has alone. The published rate of the
policy, 3e-4, is for the 15,600 steps of 20 epochs of CIFAR-100; over the 620 steps of this run it hardly moves a
policy, so searches have QUICK (our choice).
"""

from configs.sweeps.evidence import CONFIG, SHORT
from configs.sweeps.sokd import DAFA

__all__ = ["CONFIG", "sweep"]

SEEDS = 3
BASELINE = "FitNet"

QUICK = {f"{DAFA}.rate": 1e-2}


def sweep():
    """FitNet; behind a policy that stays as it starts; behind searched ones."""
    fitnet = {"student.terms.fitnet.weight": 100.0, "student.terms.fitnet.depth": 3}
    host = SHORT | {"config": "configs/compose.py:fitnet", **fitnet}
    dafa = host | {"config": "configs/compose.py:sokd+fitnet", "student.refine_order": ("dafa",)}
    yield host | {"name": "FitNet"}
    yield dafa | {"name": "DAFA + FitNet, no search", f"{DAFA}.search_epochs": 0}
    yield dafa | {"name": "DAFA + FitNet, 5 epochs of search", f"{DAFA}.search_epochs": 5, **QUICK}
    for outer in ("plain", "refined", "consistency"):
        whole = {f"{DAFA}.search_epochs": 20, f"{DAFA}.outer": outer}
        yield dafa | {"name": f"DAFA + FitNet, 20 epochs of search, outer loss {outer}", **whole, **QUICK}
